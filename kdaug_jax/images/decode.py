"""Decodes image files into RGB pixels; what could be read in two ways is refused by name."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from kdaug_jax.errors import DataError
from kdaug_jax.files import open_file

# The formats that Pillow decodes safely, with the suffixes of their files; content decides which.
SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
FORMATS = tuple(SUFFIXES)
SHOWN_FORMATS = "PNG, JPEG, WebP, BMP, GIF, TIFF or PPM"
# Areas of boxes are counted in 1/16 pixel in int32, which would wrap above. So an image takes at
# most 512 MiB, four bytes a pixel in Pillow, for each thread or process that decodes.
MAX_PIXELS = (1 << 27) - 1
MEND = "replace or remove it, or let data.bad_images='skip' pass over it"
# Values of `DecodeOptions`; "drop" is no value of `data.alpha`.
EXIF = ("ignore", "apply")
BACKGROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}
ALPHA = ("refuse", *BACKGROUNDS)

# What Pillow raises on damaged files.
_DAMAGE = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, IndexError, KeyError, OverflowError,
    struct.error, zlib.error,
)
_ORIENTATION = 0x0112
# Tags of a TIFF that say what its levels mean.
_BITS, _PHOTOMETRIC, _COLOURS, _SAMPLE_FORMAT = 258, 262, 320, 339
_WHITE_IS_ZERO, _SIGNED = 0, 2
# EXIF's eight orientations; 1 is upright. From 5 on, width and height change places.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_PILLOW = r"PIL\."
# Markers of a JPEG whose segment tells bits and size.
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


class DecodeOptions(NamedTuple):
    """How files become pixels.

    Attributes:
      exif: "ignore" leaves pixels as they are stored, "apply" turns them as EXIF notes. A TIFF is
        turned in both cases, since Pillow does so as part of the format.
      alpha: what is done with images that are partly transparent: "refuse", put them on "white" or
        "black", or "drop" the transparency, which shows hidden colours.
    """

    exif: str = "ignore"
    alpha: str = "refuse"


DEFAULTS = DecodeOptions()


class Header(NamedTuple):
    """What the header of an image file says.

    Attributes:
      height: in pixels, after the turn if one is applied.
      width: in pixels, after the turn if one is applied.
      orientation: EXIF's orientation, 1..8; 1 where there is none.
    """

    height: int
    width: int
    orientation: int


def decode(
    content: bytes, where: str, index: int, options: DecodeOptions = DEFAULTS
) -> np.ndarray:
    """Decodes one image; see `open_image`.

    Returns:
      `u8[H,W,3]`, writeable.
    """
    return np.array(open_image(content, where, index, options))


def open_image(
    content: bytes, where: str, index: int, options: DecodeOptions = DEFAULTS
) -> Image.Image:
    """Decodes one image of a format in `FORMATS`, whatever its suffix says.

    Grey images become three equal channels, palettes and CMYK are resolved as Pillow does, and
    values of 12 or 16 bits keep their upper 8 bits. Colour profiles are not applied.

    Args:
      content: the file.
      where: its name, for messages.
      index: its position in the base split, for messages.
      options: see `DecodeOptions`.

    Returns:
      An image of mode RGB in its full size, loaded.

    Raises:
      DataError: the file is damaged, of another format, holds several pictures or more than
        `MAX_PIXELS` pixels, or is partly transparent where that is refused.
    """
    try:
        with _open(io.BytesIO(content), where, index) as image:
            wide = image.mode == "RGB" and any(
                "16" in str(tile.args) for tile in image.tile if image.format == "PNG"
            )
            image.load()
            turn = _TURNS.get(_orientation(image)) if options.exif == "apply" else None
            opaque = _on_background(_eight_bits(image, where, index), where, index, options, wide)
            return opaque if turn is None else opaque.transpose(turn)
    except UnidentifiedImageError:
        raise _unidentified(io.BytesIO(content), where, index) from None
    except _DAMAGE as error:
        raise _damaged(where, index, error) from None


def image_size(
    file: str | os.PathLike[str] | BinaryIO, options: DecodeOptions = DEFAULTS
) -> tuple[int, int]:
    """Returns the (height, width) of an image from its header, as `open_image` gives it.

    Args:
      file: a path or an open file.
      options: of which `exif` decides whether a turn is applied.

    Raises:
      DataError: as `open_image`, as far as the header tells.
    """
    where = file if isinstance(file, str | os.PathLike) else getattr(file, "name", "image")
    header = read_header(file, str(where), 0, options)
    return header.height, header.width


def read_header(
    file: str | os.PathLike[str] | BinaryIO, where: str, index: int, options: DecodeOptions
) -> Header:
    """Reads the size and orientation of an image without decoding it.

    Only a PNG is decoded, and only with `exif="apply"`, since its EXIF may follow the pixels.

    Args:
      file: a path or an open file.
      where: its name, for messages.
      index: its position in the base split, for messages.
      options: of which `exif` decides whether a turn is applied.

    Raises:
      DataError: as `open_image`, as far as the header tells.
    """
    try:
        with _open(file, where, index) as image:
            width, height = image.size
            apply = options.exif == "apply"
            known = apply or image.format == "JPEG" or "exif" in image.info
            orientation = _orientation(image) if known else 1
            if apply and orientation >= 5:
                height, width = width, height
            return Header(height, width, orientation)
    except UnidentifiedImageError:
        raise _unidentified(file, where, index) from None
    except _DAMAGE as error:
        raise _damaged(where, index, error) from None


@contextlib.contextmanager
def _open(
    file: str | os.PathLike[str] | BinaryIO, where: str, index: int
) -> Iterator[Image.Image]:
    """Opens an image without decoding it, and closes it after the block."""
    _set_up_pillow()
    with contextlib.ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            # Pillow leaves open what it refuses.
            file = stack.enter_context(open_file(file, "image"))
        try:
            image = stack.enter_context(Image.open(file, formats=FORMATS))
        except Image.DecompressionBombError:
            limit = f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0)}"
            raise _too_large(where, index, limit) from None
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise _too_large(where, index, f"{width}×{height}")
        # The second picture of a camera's MPO is a preview, or the other eye's.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(
                where, f"image {index} holds {frames} pictures", "make it a file of one picture"
            )
        yield image


def _too_large(where: str, index: int, pixels: str) -> DataError:
    return DataError(
        where, f"image {index} has {pixels} pixels, and {MAX_PIXELS:,} is the limit",
        "make it smaller",
    )


def _unidentified(
    file: str | os.PathLike[str] | BinaryIO, where: str, index: int
) -> DataError:
    with contextlib.ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            file = stack.enter_context(open_file(file, "image"))
        file.seek(0)
        begin = file.read(8)
        if bits := _jpeg_bits(file):
            what = f"is a JPEG of {bits} bits a channel, which is not decoded"
            return DataError(where, f"image {index} {what}", f"store it with 8 bits, or {MEND}")
    what = f"is not a {SHOWN_FORMATS} file that can be read (it begins {begin!r})"
    return DataError(where, f"image {index} {what if begin else 'is an empty file'}", MEND)


def _jpeg_bits(file: BinaryIO) -> int:
    """Returns the bits a channel of a JPEG that has other than 8; 0 for other files."""
    file.seek(0)
    if file.read(2) != b"\xff\xd8":
        return 0
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        if head[1] in _JPEG_FRAMES:
            bits = file.read(1)
            return bits[0] if bits and bits[0] != 8 else 0
        file.seek(int.from_bytes(head[2:]) - 2, 1)
    return 0


def _damaged(where: str, index: int, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:  # the disk's error, not Pillow's
        return DataError(
            where, f"image {index} cannot be read ({error.strerror})", MEND
        )
    what = " ".join(str(error).split()) or type(error).__name__
    return DataError(where, f"image {index} is damaged ({what})", MEND)


def _set_up_pillow() -> None:
    """Lets Pillow refuse what is cut off, and silences warnings that concern no pixel.

    Libraries that a user imports switch `LOAD_TRUNCATED_IMAGES` on for the process: the rest of a
    cut image would be grey without a word, though not in worker processes. Warnings, such as that
    of a broken EXIF block, would be errors where a user makes errors of warnings.
    `warnings.catch_warnings` is not for threads, so both settings stay. What Pillow logs is in the
    error that it raises as well.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    first = warnings.filters[0] if warnings.filters else ()
    if not first or getattr(first[3], "pattern", "") != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW)


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 1 where there is none; a broken block counts as none."""
    if image.format == "TIFF":  # turned by Pillow
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1
    return orientation if orientation in _TURNS else 1


def _eight_bits(image: Image.Image, where: str, index: int) -> Image.Image:
    """Returns an image of 8 bits a channel: LA with its one transparent level, if 16-bit grey."""
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise DataError(
            where, f"image {index} has 32 bits a channel, whose range is not known",
            "store it with 8 bits",
        )
    tags = image.tag_v2 if image.format == "TIFF" else {}
    if _SIGNED in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):  # which Pillow reads as unsigned
        raise DataError(
            where, f"image {index} has signed levels, whose range is not known",
            "store it with 8 bits, unsigned",
        )
    # Colours of a palette have 16 bits. Those of some programs have 8, which Pillow makes black.
    colours = np.asarray(tags.get(_COLOURS, (0,)))
    if image.mode == "P" and 0 < colours.max() < 256:
        image.putpalette(colours.reshape(3, -1).T.astype(np.uint8).tobytes())
    # 16-bit grey, whatever Pillow calls it: its own conversion clips at 255.
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image)
    # Pillow leaves 12-bit levels small, and turns levels that count from white only up to 8 bits.
    bits = int(tags.get(_BITS, (16,))[0])
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = (1 << bits) - 1 - levels
    grey = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
    if "transparency" in image.info:
        clear = levels == image.info["transparency"]
        grey.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return grey


def _on_background(
    image: Image.Image, where: str, index: int, options: DecodeOptions, wide: bool
) -> Image.Image:
    """Returns an RGB image; `wide` if the file had 16-bit colours, of which 8 bits are left."""
    if wide and image.has_transparency_data:
        # Pillow compares the 16-bit key with 8-bit pixels, and so misses every hole.
        raise DataError(
            where, f"image {index} has 16-bit colours of which one is transparent, which cannot be "
            "put on a background",
            "store it with 8 bits, or let data.bad_images='skip' pass over it",
        )
    if not image.has_transparency_data or options.alpha == "drop":
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    rgba = image.convert("RGBA")
    if rgba.getextrema()[3][0] == 255:
        return rgba.convert("RGB")
    if options.alpha == "refuse":
        # The background is the user's choice: black and white make different images.
        raise DataError(
            where, f"image {index} is partly transparent",
            "put it on a background first, or let data.alpha='white' or 'black' do so",
        )
    background = Image.new("RGBA", rgba.size, BACKGROUNDS[options.alpha])
    return Image.alpha_composite(background, rgba).convert("RGB")
