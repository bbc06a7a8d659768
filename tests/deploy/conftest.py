"""Trained networks that several tests of deployment share."""

import io

import pytest

from kdaug_jax import data
from kdaug_jax.deploy import export
from kdaug_jax.experiment import config as configs
from kdaug_jax.training import loop
from tests.conftest import tiny_config

NAMES = ("ant", "bee", "cat", "dog")
# Of the quantised network: a view that changes what is answered.
VIEW = "flip(1.0)"


@pytest.fixture(scope="session")
def named():
    """A data set whose classes have names."""
    split = data.load("synthetic:12x12,4,40", {"train": "train"}).splits["train"]
    pair = split.image, split.label
    made = data.from_arrays(dict.fromkeys(("train", "validation", "test"), pair), NAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.SOURCES, "named", lambda argument, options: made)
        yield split


def train(directory, network, **sections):
    """Trains and exports; returns the directory and what was printed."""
    stream = io.StringIO()
    config = tiny_config(**{
        "data": dict(source="named", batch_size=8), "views": {"x": ""},
        "networks": {"student": network}, "train": dict(epochs=1.0), **sections,
    })
    loop.train(config, directory, stream=stream)
    export.export_run(directory, stream=stream)
    return directory, stream.getvalue()


@pytest.fixture(scope="session")
def quantised(named, tmp_path_factory):
    """A network of 4 bits and its export."""
    network = configs.network("resnet8", trainable=True, options={"bits": (4, 4)})
    return train(tmp_path_factory.mktemp("quantised"), network, eval=dict(view=VIEW))
