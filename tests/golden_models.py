"""Checks networks against stored forward vectors of their originals, for any folder of such files.

A file `<network>….npz` holds `input` f32[2,3,H,W] and, with weights that are made again from
their names (see `weight`), what the original in PyTorch says: `logits` f32[2,C] and features. Its
arrays: `param_names`, `param_shapes` (comma-joined) and `param_sums` (float64 sums of the weights);
`tap/<name>/shape`, `/values` and `/step` (the flat channels-first array with that step) and
`/stats` (mean, standard deviation and norm of the whole array); `meta`, JSON with `gain`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdaug_jax import models
from kdaug_jax.models.weights import from_torch
from tests.tiny import RAW

STORED = Path(__file__).parent / "golden" / "models"

# Of the standard deviation of what is compared. EfficientNets sum more terms.
TOLERANCE, TOLERANCE_EFFICIENTNET = 1e-4, 5e-4
# What the stored files call a feature.
_FEATURE = "tap/"


def check(directory: str | Path) -> tuple[int, int]:
    """Checks every file of a folder, and prints a line for each.

    Args:
      directory: the folder.

    Returns:
      How many files agree and how many do not; a file that cannot be checked does not.
    """
    passed = failed = 0
    for path in sorted(Path(directory).glob("*.npz")):
        try:
            problems = list(differences(path))
        except Exception as error:  # whatever is wrong with one file, the others are checked too
            problems = [f"{type(error).__name__}: {error}"]
        passed, failed = (passed, failed + 1) if problems else (passed + 1, failed)
        print(f"{path.stem}: {'; '.join(problems) or 'agrees'}", flush=True)
    return passed, failed


def differences(path: Path) -> Iterator[str]:
    """Yields how a network differs from a file; nothing if it agrees."""
    content, state = read(path)
    name = network_of(path.stem)
    sums = [np.sum(array, dtype=np.float64) for array in state.values()]
    if not np.allclose(sums, content["param_sums"], rtol=1e-9, atol=1e-9):
        yield "the weights that were made again have other sums"
        return
    outputs = forward(name, content, state)
    tolerance = TOLERANCE_EFFICIENTNET if "efficientnet" in name else TOLERANCE
    error = np.abs(outputs.logits - content["logits"]).max() / np.std(content["logits"])
    if not error <= tolerance:
        yield f"logits differ by {error:.1e} of their standard deviation"
    features = sorted({key.split("/")[1] for key in content if key.startswith(_FEATURE)})
    if not features:
        yield "holds no features"
    for feature in features:
        if feature not in outputs.features:
            yield f"feature {feature} is missing"
            continue
        keys = ("shape", "step", "values", "stats")
        stored = {key: content[f"{_FEATURE}{feature}/{key}"] for key in keys}
        array = np.asarray(outputs.features[feature])
        yield from _feature_differences(feature, array, stored, tolerance)


def _feature_differences(
    feature: str, array: np.ndarray, stored: Mapping[str, np.ndarray], tolerance: float
) -> Iterator[str]:
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    if array.shape != tuple(stored["shape"]):
        yield f"feature {feature} has shape {array.shape}, not {tuple(stored['shape'].tolist())}"
        return
    mean, spread, norm = stored["stats"]
    error = np.abs(array.reshape(-1)[:: int(stored["step"])] - stored["values"]).max() / spread
    if not error <= tolerance:
        yield f"feature {feature} differs by {error:.1e} of its standard deviation"
    whole = array.astype(np.float64)
    # A mean is compared on the scale of the standard deviation, since it may be near zero.
    errors = {
        "mean": abs(whole.mean() - mean) / spread,
        "standard deviation": abs(whole.std() / spread - 1),
        "norm": abs(np.linalg.norm(whole) / norm - 1),
    }
    for what, error in errors.items():
        if not error <= tolerance:
            yield f"{what} of feature {feature} differs by {error:.1e}"


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the arrays of a file, and the weights in PyTorch's names and layout."""
    with np.load(path) as stored:
        content = dict(stored)
    gain = json.loads(str(content["meta"]))["gain"]
    shapes = [tuple(map(int, shape.split(","))) for shape in content["param_shapes"].tolist()]
    names = content["param_names"].tolist()
    return content, {n: weight(n, s, gain) for n, s in zip(names, shapes, strict=True)}


def network_of(stem: str) -> str:
    """Returns the longest name of a network that begins the name of a file."""
    known = [name for name in models.names() if stem.lower().startswith(name)]
    if not known:
        raise ValueError(f"no network's name begins '{stem}'")
    return max(known, key=len)


def weight(name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    """Makes the weights of one layer from their name alone."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    z = generator.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_var"):
        return 1 + np.float32(0.1) * np.abs(z)
    if name.endswith(("running_mean", "bias")):
        return np.float32(0.1) * z
    if len(shape) == 1:
        return 1 + np.float32(0.1) * z
    return z * np.float32(gain / np.sqrt(np.prod(shape[1:])))


def forward(
    name: str,
    content: Mapping[str, np.ndarray],
    state: Mapping[str, np.ndarray],
    change: Callable[[models.Model, dict], dict] = lambda model, variables: variables,
) -> Any:
    """Returns the outputs of our network for the stored input, with perhaps changed weights."""
    image = jnp.asarray(content["input"].transpose(0, 2, 3, 1))
    model = models.create(name, content["logits"].shape[1], normalize=RAW)
    expected = jax.eval_shape(lambda key: model.init(key, image.shape[1:3]), jax.random.key(0))
    variables = change(model, from_torch(state, expected))

    def run(variables, image):
        with jax.default_matmul_precision("highest"):
            return model.apply(variables, image, train=False)[0]

    # Each is run once, on two images: compile quickly, not well.
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})(variables, image)
