"""Tables of logits as teachers: computed elsewhere, looked up by example.

So a network that JAX cannot run, or that is only served, can teach. Its logits for a stored image
are used for every view of that image.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.experiment.frozen.adapting import require_outputs
from kdaug_jax.files import parse_json, read_npz
from kdaug_jax.models.foreign import opened, safetensors_file
from kdaug_jax.models.model import Model
from kdaug_jax.types import Info, Outputs

FORM = (
    "save index i32[N], positions in the base split, and logits f32[N,C] as .npz or .safetensors"
)
# No network gives logits beyond it; a flipped bit of an exponent does.
_LARGEST = 1e6


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns a table of logits; an unchanged file is read once.

    Args:
      path: `.npz` or `.safetensors` with `index` i[N] and `logits` f[N,C].

    Returns:
      `{"index": i32[N], "logits": f[N,C]}`, sorted by index.

    Raises:
      CheckpointError: the file is damaged, or the arrays have another form.
    """
    return _unchanged(path)[0]


def class_names(path: Path) -> tuple[str, ...]:
    """Returns the class names of a table, in the order of its logits; empty where it has none.

    Args:
      path: `.npz` with an array `class_names` of texts, or `.safetensors` with a JSON list of that
        name among its metadata.

    Raises:
      CheckpointError: see `read`; or they are not one distinct text a class.
    """
    return _unchanged(path)[1]


def _unchanged(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    try:
        stat = path.stat()
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", FORM) from None
    return _read(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=8)
def _read(path: Path, *when: int) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    opened.kind_of(path)
    if path.suffix != ".npz":
        arrays, metadata = safetensors_file.read(path)
        names = _listed(path, metadata.get("class_names"))
    else:
        arrays = _npz(path)
        names = arrays.pop("class_names", np.zeros(0, np.str_))
    missing = [name for name in ("index", "logits") if name not in arrays]
    if missing:
        names = ", ".join(safetensors_file.shown(name) for name in list(arrays)[:5])
        raise CheckpointError(str(path), f"has no '{missing[0]}' (it has {names})", FORM)
    index, logits = arrays["index"], arrays["logits"]

    def refuse(what: str) -> CheckpointError:
        return CheckpointError(str(path), what, FORM)

    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise refuse(f"index is {index.dtype}{list(index.shape)}")
    if logits.ndim != 2 or not jnp.issubdtype(logits.dtype, jnp.floating) or len(index) == 0:
        raise refuse(f"logits are {logits.dtype}{list(logits.shape)}")
    if len(index) != len(logits):
        raise refuse(f"has {len(index)} indices and {len(logits)} rows of logits")
    if index.min() < 0 or index.max() > np.iinfo(np.int32).max:
        raise refuse(f"index reaches from {index.min()} to {index.max()}")
    order = np.argsort(index, kind="stable")
    index, logits = index[order].astype(np.int32), logits[order]
    twice = index[1:][index[1:] == index[:-1]]
    if len(twice):
        raise refuse(f"index {twice[0]} is there twice")
    if logits.dtype.itemsize > 4:
        with np.errstate(over="ignore"):  # what is too large is refused below
            logits = logits.astype(np.float32)
    logits = logits.astype(logits.dtype.newbyteorder("="))
    wide = logits.astype(np.float32)
    bad = ~np.isfinite(wide).all(axis=1)
    if bad.any():
        raise refuse(f"logits of index {index[bad.argmax()]} are not finite")
    bad = (np.abs(wide) > _LARGEST).any(axis=1)
    if bad.any():
        raise CheckpointError(
            str(path), f"logits of index {index[bad.argmax()]} reach {np.abs(wide).max():.3g}, "
            "beyond any network's", "copy the file again: it looks damaged",
        )
    named = np.asarray(names)
    texts = tuple(map(str, named.reshape(-1))) if named.dtype.kind in "US" or not named.size else ()
    if named.size and (len(set(texts)) != named.size or len(texts) != logits.shape[1]):
        raise refuse(
            f"has class_names {named.dtype}{list(named.shape)} for {logits.shape[1]} classes, not "
            "one distinct text each"
        )
    return {"index": index, "logits": logits}, texts


def _listed(path: Path, text: str | None) -> list[str]:
    try:
        names = parse_json(text or "[]")
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(str(path), "has class_names that are no list of texts", FORM)
    return names


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, ("index", "logits", "class_names"))
    except Exception as error:  # zip, its codecs and NumPy raise any exception at damaged bytes
        what = f"cannot be read as .npz ({safetensors_file.shown(str(error))})"
        raise CheckpointError(str(path), what, FORM) from None


def model(num_classes: int, rows: int, dtype: Any) -> Model:
    """Returns a table as a model that has variables but cannot be run on images.

    Args:
      num_classes: width of the logits.
      rows: examples in the table.
      dtype: of the stored logits.

    Returns:
      A model whose `apply` raises.
    """
    def init(key: jax.Array, size: tuple[int, int]) -> dict[str, Any]:
        del key, size
        logits = jnp.zeros((rows, num_classes), dtype)
        return {"params": {"index": jnp.zeros(rows, jnp.int32), "logits": logits},
                "batch_stats": {}}

    def apply(variables, image, **settings):
        del variables, image, settings
        raise ConfigError(
            "networks", "stored logits can be looked up for stored images only",
            "use a network that can be run",
        )

    return Model(init, apply, "stored logits", num_classes, 1, 1, 1, 3)


def look_up(variables: Mapping[str, Any], index: jax.Array) -> Outputs:
    """Returns the stored logits of examples.

    Args:
      variables: `{"params": table}`, see `read`.
      index: `i32[B]`, positions in the base split; all of them are in the table.

    Returns:
      Outputs with `f32[B,C]` and no features.
    """
    table = variables["params"]
    row = jnp.searchsorted(table["index"], index)
    return Outputs(table["logits"][row].astype(jnp.float32), {})


def check_outputs(where: str, table: Mapping[str, np.ndarray], probabilities: bool) -> None:
    """Validates that a table holds logits, or the probabilities that a config says it does.

    Args:
      where: config path of the network, for messages.
      table: see `read`.
      probabilities: whether `outputs` says so.

    Raises:
      ConfigError: it holds the other.
    """
    require_outputs(where, "every row of its logits", table["logits"], probabilities)


def check(where: str, path: str, table: Mapping[str, np.ndarray], info: Info) -> np.ndarray:
    """Validates that a table holds every training example.

    Args:
      where: config path of the network, for messages.
      path: of the table, likewise.
      table: in the order of the data's classes, see `stored.table_of`.
      info: facts of the training split.

    Returns:
      `f[N,C]`, the logits of the training examples.

    Raises:
      ConfigError: examples are missing.
    """
    index = np.arange(len(info.labels)) if info.index is None else np.asarray(info.index)
    row = np.minimum(np.searchsorted(table["index"], index), len(table["index"]) - 1)
    missing = index[table["index"][row] != index]
    if len(missing):
        raise ConfigError(
            f"{where}.checkpoint",
            f"{path} has no logits of {len(missing):,} of the {len(index):,} training examples, "
            f"such as index {missing[0]}",
            "index counts from 0 in the base split, before parts of it are taken",
        )
    return table["logits"][row]


def refuse_mixed(where: str, view: str, forms: Sequence[str]) -> None:
    """Raises ConfigError if a stage of a view mixes images, whose logits are not in a table."""
    if "group" in forms:
        raise ConfigError(
            where, f"is a table of logits, but view '{view}' mixes images",
            "use it on views of single images, or a network that can be run",
        )
