"""The data sources, each a function of the text after the colon in `data.source`.

Adding one is one function that returns a `Dataset` of base splits and one row of `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable

from kdaug_jax.data.dataset import Dataset
from kdaug_jax.data.sources.arrays import arrays, from_arrays, register
from kdaug_jax.data.sources.cifar import cifar10, cifar100
from kdaug_jax.data.sources.digits import digits
from kdaug_jax.data.sources.folder import folder
from kdaug_jax.data.sources.idx import idx
from kdaug_jax.data.sources.synthetic import synthetic
from kdaug_jax.data.sources.tfds import tfds

SOURCES: dict[str, Callable[[str], Dataset]] = {
    "arrays": arrays,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "folder": folder,
    "idx": idx,
    "synthetic": synthetic,
    "tfds": tfds,
}

__all__ = ["SOURCES", "from_arrays", "register"]
