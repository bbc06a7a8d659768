import io

import numpy as np
import pytest
from PIL import Image

from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import decode

RGB = np.random.RandomState(0).randint(0, 256, (5, 4, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb():
    rgb, grey = Image.fromarray(RGB), Image.fromarray(RGB[..., 0])
    grey3 = np.repeat(RGB[..., :1], 3, -1)
    opaque = rgb.copy()
    opaque.putalpha(255)
    grey_opaque = grey.copy()
    grey_opaque.putalpha(255)
    palette = rgb.quantize(16)
    deep = Image.fromarray(RGB[..., 0].astype(np.uint16) * 256 + 255)
    black_white = Image.fromarray(RGB[..., 0] > 128)
    for image, wanted in (
        (rgb, RGB),
        (grey, grey3),
        (opaque, RGB),
        (grey_opaque, grey3),
        (deep, grey3),
        (palette, np.asarray(palette.convert("RGB"))),
        (black_white, np.where(grey3 > 128, 255, 0)),
    ):
        pixels = decode(encoded(image), "file", 0)
        assert pixels.dtype == np.uint8 and pixels.flags.writeable
        np.testing.assert_array_equal(pixels, wanted)
    for image in (rgb, grey, rgb.convert("CMYK")):
        pixels = decode(encoded(image, "JPEG", quality=95), "file", 0)
        np.testing.assert_array_equal(
            pixels, Image.open(io.BytesIO(encoded(image, "JPEG", quality=95))).convert("RGB")
        )


def test_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(encoded(Image.fromarray(RGB), "JPEG", exif=exif), "file", 0).shape == (5, 4, 3)


def test_transparent_images_are_refused_by_name():
    half = Image.fromarray(RGB)
    half.putalpha(Image.fromarray(RGB[..., 0]))
    palette = Image.fromarray(RGB).quantize(4)
    colour = tuple(RGB[1, 1].tolist())
    for content in (
        encoded(half),
        encoded(palette, transparency=palette.getpixel((0, 0))),
        encoded(Image.fromarray(RGB), transparency=colour),
    ):
        with pytest.raises(DataError, match="a.png: image 7 is partly transparent; put it on"):
            decode(content, "a.png", 7)


def test_damage_is_named_not_raised_as_it_comes():
    random = np.random.RandomState(1)
    for kind in ("PNG", "JPEG"):
        whole = encoded(Image.fromarray(RGB), kind)
        for _ in range(200):
            broken = bytearray(whole[: random.randint(len(whole) + 1)])
            for place in random.randint(0, max(len(broken), 1), 3 if broken else 0):
                broken[place] ^= 1 << random.randint(8)
            try:
                assert decode(bytes(broken), "file", 3).dtype == np.uint8
            except DataError as error:
                assert str(error).startswith("file: image 3 is") and "\n" not in str(error)
