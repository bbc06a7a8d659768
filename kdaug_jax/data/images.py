"""Decodes image files into RGB pixels; images that are not opaque are refused by name."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, UnidentifiedImageError

from kdaug_jax.errors import DataError

# What Pillow raises on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error,
    Image.DecompressionBombError,
)


def decode(content: bytes, where: str, index: int) -> np.ndarray:
    """Decodes one PNG or JPEG.

    Grey images become three equal channels, palettes are resolved, an alpha channel is dropped if
    the image is opaque everywhere, and 16-bit values keep their upper 8 bits. The orientation noted
    in EXIF is not applied: pixels stay as they are stored.

    Args:
      content: the file.
      where: its name, for messages.
      index: its position in the base split, for messages.

    Returns:
      `u8[H,W,3]`.

    Raises:
      DataError: the file is damaged, neither PNG nor JPEG, or partly transparent.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
        image.load()
    except UnidentifiedImageError:
        raise DataError(
            where, f"image {index} is neither PNG nor JPEG", "replace or remove it"
        ) from None
    except _DAMAGE as error:
        raise DataError(
            where, f"image {index} is damaged ({error})", "replace or remove it"
        ) from None
    if image.mode == "I" or image.mode.startswith("I;16"):  # 16-bit grey, whatever Pillow calls it
        wide = np.asarray(image)
        clear = wide == image.info.get("transparency", -1)  # the one transparent level
        pixels = np.repeat((wide >> 8).astype(np.uint8)[..., None], 3, axis=-1)
    elif image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        clear, pixels = pixels[..., 3] != 255, pixels[..., :3].copy()
    else:
        return np.array(image.convert("RGB"))
    if clear.any():
        # The background is the user's choice: black and white make different images.
        raise DataError(
            where, f"image {index} is partly transparent", "put it on a background first"
        )
    return pixels
