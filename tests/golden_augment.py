"""Runs the augmentation ops that the manifest of a golden folder names.

A folder holds `manifest.json` and one `SET.npz`, or `SET.npz.xz`, for each set it lists. `in` of a
file is `u8[N,H,W,3]`; every other array is the output of the case of that name, `op` with `args`.
The manifest's `variant` says whose op it is, Pillow's or the EfficientNet code's for TPUs.

All ops are traced with their numbers as arguments and compiled once for each size of image.
"""

from __future__ import annotations

import functools
import io
import json
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdaug_jax import augment
from kdaug_jax.augment.ops import tpu

# What a key may differ by, at most, in grey levels; what is not listed here, in nothing. The
# float32 ops of TensorFlow depend on its build.
TOLERANCES = {
    "tpu": {
        "autocontrast": 1,
        "sharpness": 1,
        "rgb_to_grayscale": 1,
        "resize_bicubic_tf1": 1e-3,
        "resize_bicubic_tf2": 1e-3,
    },
}
# For code in whole numbers only, which compiles in half the time. Code with float32 is compiled
# as it is run, because it is then that roundings are merged.
QUICK = {"xla_backend_optimization_level": 0}
PBA = (125, 122, 113)
Run = Callable[[np.ndarray, dict[str, Any]], Any]


@functools.cache
def mapped(function: Callable, count: int = 0, quick: bool = False) -> Callable:
    """Compiles a function of one image and `count` arguments that all images share."""
    return jax.jit(
        jax.vmap(function, (0, *[None] * count)), compiler_options=QUICK if quick else None
    )


def plain(function: Callable, *names: str, dtype: Any = np.int32) -> Run:
    """Runs an op whose magnitudes are traced numbers."""
    # Two ops of TensorFlow have no magnitude and yet are float32.
    exact = dtype == np.int32 and not function.__module__.startswith(tpu.__name__)
    return lambda images, args: mapped(function, len(names), exact)(
        images, *(np.asarray(args[name], dtype) for name in names)
    )


def fill_of(text: str | None, channels: int) -> np.ndarray:
    colour = PBA if text == "pba" else (int(text or 0),) * 3
    return np.array([*colour, 0][:channels], np.uint8)


def matrix_of(op: str, value: float, height: int, width: int) -> tuple[float, ...]:
    return {
        "rotate": lambda: augment.rotation(value, height, width),
        "shear_x": lambda: (1, value, 0, 0, 1, 0),
        "shear_y": lambda: (1, 0, 0, value, 1, 0),
        "translate_x": lambda: (1, 0, value, 0, 1, 0),
        "translate_y": lambda: (1, 0, 0, 0, 1, value),
    }[op]()


def geometry(op: str, method: str | None = None, fill: str | None = None) -> Run:
    def run(images: np.ndarray, args: dict[str, Any]) -> jax.Array:
        (value,) = args.values()
        colour = fill_of(fill, images.shape[3])
        matrix = matrix_of(op, value, *images.shape[1:3])
        if method in (None, "nearest"):
            coefficients = augment.affine_coefficients(*matrix)
            return mapped(augment.affine_nearest, 2, quick=True)(images, coefficients, colour)
        function = {"bilinear": augment.affine_bilinear, "bicubic": augment.affine_bicubic}[method]
        return mapped(function, 2, quick=True)(images, augment.exact_coefficients(*matrix), colour)

    return run


def tpu_geometry(op: str) -> Run:
    def run(images: np.ndarray, args: dict[str, Any]) -> jax.Array:
        (value,) = args.values()
        height, width = images.shape[1:3]
        matrix = matrix_of(op, value, height, width)
        transform = tpu.rotation(value, height, width) if op == "rotate" else matrix
        return mapped(tpu.affine_nearest, 2)(
            images, np.asarray(transform, np.float32), fill_of("128", images.shape[3])
        )

    return run


def cutout(fill: str) -> Run:
    return lambda images, args: mapped(augment.cutout, 4, quick=True)(
        images, args["cy"], args["cx"], args["size"], fill_of(fill, images.shape[3])
    )


def pad4_crop(images: np.ndarray, args: dict[str, Any]) -> jax.Array:
    return mapped(augment.pad_crop, 4, quick=True)(
        images, args["top"], args["left"], 4, fill_of("0", 3)
    )


def crop_resize(method: str) -> Run:
    def run(images: np.ndarray, args: dict[str, Any]) -> jax.Array:
        height, width = images.shape[1:3]
        box = [
            int(args[name] * side)
            for name, side in (("fy", height), ("fx", width), ("fh", height), ("fw", width))
        ]
        return resizer(args["S"], method)(images, *box)

    return run


@functools.cache
def resizer(side: int, method: str) -> Callable:
    function = functools.partial(augment.resize_box, size=(side, side), method=method)
    return mapped(function, 4, quick=True)


def resize_tensorflow(version: int) -> Run:
    @functools.cache
    def function(side: int) -> Callable:
        size = (side, side)
        resize = functools.partial(augment.resize_tensorflow, size=size, version=version)
        return mapped(resize, quick=True)

    return lambda images, args: function(args["S"])(images)


def level(function: Callable) -> Run:
    """Runs an enhancing op at a level of AutoAugment, a factor 0.1..1.9."""
    return lambda images, args: mapped(function, 1)(
        images, np.float32(float(args["l"]) * 1.8 / 10 + 0.1)
    )


def pba_chain(images: np.ndarray, args: dict[str, Any]) -> jax.Array:
    """Runs ops of PBA in turn on images with alpha."""
    opaque = np.full((*images.shape[:3], 1), 255, np.uint8)
    images = np.concatenate([images, opaque], axis=3)
    for name, value in args["steps"]:
        op = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        if op == "cutout":
            own = dict(zip(("cy", "cx", "size"), value, strict=True))
            images = cutout("pba")(images, own)
        else:
            own = {} if value is None else {"value": value}
            images = CHAIN[op](images, own)
    return images


GEOMETRY = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
ENHANCE = {
    "color": augment.color,
    "contrast": augment.contrast,
    "brightness": augment.brightness,
    "sharpness": augment.sharpness,
}
CHAIN: dict[str, Run] = {
    **{op: geometry(op) for op in GEOMETRY},
    **{op: plain(function, "value", dtype=np.float32) for op, function in ENHANCE.items()},
    "invert": plain(augment.invert),
    "equalize": plain(augment.equalize),
    "auto_contrast": plain(augment.auto_contrast),
    "posterize": plain(augment.posterize, "value"),
    "solarize": plain(augment.solarize, "value"),
}
PILLOW: dict[str, Run] = {
    **{op: plain(function, "f", dtype=np.float32) for op, function in ENHANCE.items()},
    **{f"{op}_level": level(function) for op, function in ENHANCE.items()},
    "identity": plain(augment.identity),
    "invert": plain(augment.invert),
    "autocontrast": plain(augment.auto_contrast),
    "equalize": plain(augment.equalize),
    "grayscale_L": plain(augment.luma),
    "solarize": plain(augment.solarize, "t"),
    "solarize_add": plain(augment.solarize_add, "add"),
    "posterize": plain(augment.posterize, "bits"),
    "smooth": plain(augment.smooth),
    "blur": plain(augment.blur),
    "flip_lr": plain(augment.flip),
    "pad4_crop": pad4_crop,
    "crop_resize_bilinear": crop_resize("bilinear"),
    "crop_resize_bicubic": crop_resize("bicubic"),
    "pba_chain": pba_chain,
}
TPU: dict[str, Run] = {
    **{op: tpu_geometry(op) for op in GEOMETRY},
    **{op: plain(getattr(tpu, op), "f", dtype=np.float32) for op in ENHANCE},
    "autocontrast": plain(tpu.auto_contrast),
    "equalize": plain(tpu.equalize),
    "invert": plain(tpu.invert),
    "posterize": plain(tpu.posterize, "bits"),
    "solarize": plain(tpu.solarize, "t"),
    "solarize_add": plain(tpu.solarize_add, "add"),
    "rgb_to_grayscale": lambda images, args: mapped(tpu.grey)(images)[..., None],
    "resize_bicubic_tf1": resize_tensorflow(1),
    "resize_bicubic_tf2": resize_tensorflow(2),
}


def pillow_op(name: str) -> Run | None:
    """Finds an op by its name, of which method and fill may be part."""
    if name in PILLOW:
        return PILLOW[name]
    parts = re.fullmatch(
        rf"({'|'.join(GEOMETRY)})(?:_(nearest|bilinear|bicubic))?(?:_fill(\d+))?", name
    )
    if parts:
        return geometry(*parts.groups())
    parts = re.fullmatch(r"cutout_fill(\d+|pba)", name)
    return cutout(*parts.groups()) if parts else None


VARIANTS: dict[str, Callable[[str], Run | None]] = {"pillow": pillow_op, "tpu": TPU.get}


def load(directory: Path, name: str) -> dict[str, np.ndarray]:
    """Reads the arrays of one set."""
    path = directory / f"{name}.npz"
    packed = path.with_suffix(".npz.xz")
    data = lzma.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    with np.load(io.BytesIO(data)) as file:
        return dict(file)


def compare(result: Any, expected: np.ndarray, tolerance: float) -> str | None:
    """Says how a result differs from what was expected, or None."""
    result = np.asarray(result)
    if (result.shape, result.dtype) != (expected.shape, expected.dtype):
        found, wanted = (f"{one.dtype}{list(one.shape)}" for one in (result, expected))
        return f"is {found}, should be {wanted}"
    away = np.abs(result.astype(np.float64) - expected.astype(np.float64))
    if not (away <= tolerance).all():
        many = f"{np.count_nonzero(~(away <= tolerance))} of {away.size} values differ"
        return f"{many} by up to {away.max():g} (tolerance {tolerance:g})"
    return None


def check(
    directory: Path, tolerances: dict[str, dict[str, float]] = TOLERANCES
) -> Iterator[tuple[str, str | None]]:
    """Checks all cases of all sets; yields "set/key" and the problem, or None where there is none.

    Args:
      directory: holds `manifest.json` and the .npz files.
      tolerances: by variant and op.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        variant, cases, sets = (manifest[name] for name in ("variant", "cases", "sets"))
        wanted = {name: [key for key in cases if name in cases[key]["sets"]] for name in sets}
        if not wanted:
            raise ValueError("it lists no sets")
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield "manifest.json", f"cannot be read: {error!r}"
        return
    for name, keys in wanted.items():
        own = {key: cases[key] for key in keys}
        try:
            arrays = load(directory, name)
        except (OSError, ValueError, lzma.LZMAError) as error:
            arrays, own = {}, dict.fromkeys(own, error) or {"*": error}
        for key in sorted({*own, *arrays} - {"in"}):
            yield f"{name}/{key}", _problem(arrays, key, own.get(key), variant, tolerances)


def _problem(
    arrays: dict[str, np.ndarray],
    key: str,
    case: dict[str, Any] | Exception | None,
    variant: str,
    tolerances: dict[str, dict[str, float]],
) -> str | None:
    if isinstance(case, Exception):
        return f"file cannot be read: {case!r}"
    if case is None:
        return "is not in the manifest"
    if key not in arrays or "in" not in arrays:
        return "is not in the file"
    if variant not in VARIANTS:
        return f"unknown variant '{variant}'"
    if not {"op", "args"} <= case.keys():
        return "has no op or no args in the manifest"
    run = VARIANTS[variant](case["op"])
    if run is None:
        return f"unknown op '{case['op']}'"
    try:
        result = run(arrays["in"], case["args"])
    except Exception as error:  # An op that cannot run has failed; the others are still checked.
        return f"raised {error!r}"
    return compare(result, arrays[key], tolerances.get(variant, {}).get(case["op"], 0))
