import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from kdaug_jax.errors import DataError
from kdaug_jax.images.decode import (
    MAX_PIXELS,
    DecodeOptions,
    decode,
    image_size,
    open_image,
    read_header,
)

RGB = np.random.RandomState(0).randint(0, 256, (5, 4, 3), dtype=np.uint8)
WHITE, BLACK = DecodeOptions(alpha="white"), DecodeOptions(alpha="black")
TURNED = DecodeOptions(exif="apply")


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(levels, depth, colour, transparent=b""):
    """A PNG written by hand: Pillow cannot write all kinds. `levels` is [H,W] or [H,W,C]."""
    height, width = levels.shape[:2]
    bits = levels.astype(">u2" if depth == 16 else np.uint8)
    rows = [np.packbits(row) if depth == 1 else row for row in bits]
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )  # fmt: skip


def tiff(levels, bits, photometric=1, sample_format=1):
    """A grey TIFF of one row, written by hand: Pillow cannot write all kinds."""
    values = [int(level) & ((1 << bits) - 1) for level in levels]
    if bits == 12:
        pairs = zip(values[::2], values[1::2], strict=True)
        body = b"".join((a << 12 | b).to_bytes(3, "big") for a, b in pairs)
    else:
        body = b"".join(value.to_bytes(bits // 8, "little") for value in values)
    tags = {
        256: len(values), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 134, 277: 1, 278: 1,
        279: len(body), 339: sample_format,
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + body


def oriented(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


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


@pytest.mark.parametrize("kind, options", [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("WEBP", {"lossless": True}),
])  # fmt: skip
def test_formats_that_keep_every_pixel(kind, options):
    content = encoded(Image.fromarray(RGB), kind, **options)
    image = open_image(content, "file", 0)
    assert image.mode == "RGB" and image_size(io.BytesIO(content)) == (5, 4)
    np.testing.assert_array_equal(image, RGB)


def test_other_formats_and_what_is_no_image():
    gif = Image.fromarray(RGB).quantize(8)
    np.testing.assert_array_equal(decode(encoded(gif, "GIF"), "file", 0), gif.convert("RGB"))
    for content, begins in (
        (b"<html><body>", r"\(it begins b'<html><b'\)"),
        (encoded(Image.fromarray(RGB), "ICO"), "it begins"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it begins b'%!PS"),
        # Nothing can be cut of an image without pixels.
        (b"P6\n0 5\n255\n", r"file that can be read \(it begins b'P6"),
    ):
        for call in (decode, lambda *args: read_header(io.BytesIO(args[0]), *args[1:], TURNED)):
            with pytest.raises(DataError, match=f"a.jpg: image 2 is not a PNG, JPEG, .*{begins}"):
                call(content, "a.jpg", 2)
    with pytest.raises(DataError, match="a.jpg: image 2 is an empty file; replace or remove it"):
        decode(b"", "a.jpg", 2)


def test_files_of_several_pictures_are_refused_but_a_cameras_preview():
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())
    for kind in ("GIF", "WEBP", "TIFF", "PNG"):
        content = encoded(first, kind, save_all=True, append_images=[second])
        with pytest.raises(DataError, match="image 0 holds 2 pictures; make it"):
            decode(content, "file", 0)
    content = encoded(first, "MPO", save_all=True, append_images=[second], quality=95)
    np.testing.assert_array_equal(
        decode(content, "file", 0), decode(encoded(first, "JPEG", quality=95), "file", 0)
    )


def test_values_of_sixteen_bits_keep_their_upper_eight():
    deep = RGB[..., 0].astype(np.uint16) * 256 + 255
    grey3 = np.repeat(RGB[..., :1], 3, -1)
    for kind in ("PNG", "TIFF", "PPM"):
        np.testing.assert_array_equal(
            decode(encoded(Image.fromarray(deep), kind), "file", 0), grey3
        )
    wide = RGB.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(decode(png(wide, 16, 2), "file", 0), RGB)
    for image in (Image.fromarray(deep.astype(np.int32)), Image.fromarray(deep.astype("f4"))):
        with pytest.raises(DataError, match="has 32 bits a channel"):
            decode(encoded(image, "TIFF"), "file", 0)


def test_orientation_is_applied_only_if_asked_for():
    turns = {
        1: RGB, 2: RGB[:, ::-1], 3: RGB[::-1, ::-1], 4: RGB[::-1], 5: RGB.swapaxes(0, 1),
        6: np.rot90(RGB, -1), 7: RGB[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(RGB),
    }  # fmt: skip
    for kind, lossless in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        for number, wanted in turns.items():
            content = encoded(Image.fromarray(RGB), kind, exif=oriented(number), **lossless)
            np.testing.assert_array_equal(decode(content, "file", 0), RGB)
            np.testing.assert_array_equal(decode(content, "file", 0, TURNED), wanted)
            assert image_size(io.BytesIO(content)) == (5, 4)
            assert image_size(io.BytesIO(content), TURNED) == wanted.shape[:2]
    content = encoded(Image.fromarray(RGB), "JPEG", exif=oriented(6))
    assert decode(content, "file", 0).shape == (5, 4, 3)
    assert decode(content, "file", 0, TURNED).shape == (4, 5, 3)
    assert image_size(io.BytesIO(content), TURNED) == (4, 5)
    # Pillow turns TIFF itself, and only once.
    content = encoded(Image.fromarray(RGB), "TIFF", exif=oriented(6))
    for options in (TURNED, DecodeOptions()):
        assert image_size(io.BytesIO(content), options) == (4, 5)
        np.testing.assert_array_equal(decode(content, "file", 0, options), np.rot90(RGB, -1))


def test_a_broken_exif_block_is_no_damage():
    whole = encoded(Image.fromarray(RGB), "JPEG", exif=oriented(6))
    place = whole.index(b"Exif\0\0") + 6
    # Without JFIF's resolution, Pillow looks for one in EXIF as it opens the file.
    start = whole.index(b"\xff\xe0")
    length = 2 + int.from_bytes(whole[start + 2 : start + 4], "big")
    plain = whole[:start] + whole[start + length :]
    for content in (
        whole[:place] + b"\xff" * 8 + whole[place + 8 :],
        plain[: place - length] + b"MM\0*\0\0\xff\xff" + plain[place - length + 8 :],
    ):
        for options in (DecodeOptions(), TURNED):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert decode(content, "file", 0, options).shape == (5, 4, 3)
                assert image_size(io.BytesIO(content), options) == (5, 4)


def holes():
    """Images with one transparent pixel at (1, 1), and the RGB of the others."""
    clear = np.full((5, 4), 255, np.uint8)
    clear[1, 1] = 0
    rgba = np.dstack([RGB, clear])
    grey3 = np.repeat(RGB[..., :1], 3, -1)
    levels = np.arange(20, dtype=np.uint16).reshape(5, 4) * 300
    upper3 = np.repeat((levels[..., None] >> 8).astype(np.uint8), 3, -1)
    black_white = np.ones((5, 4), np.uint8)
    black_white[1, 1] = 0
    palette = Image.fromarray(np.arange(20, dtype=np.uint8).reshape(5, 4), "L").convert("P")
    palette.putpalette(RGB.tobytes())
    key = struct.pack(">3H", *RGB[1, 1].tolist())
    return {
        "RGBA": (encoded(Image.fromarray(rgba)), RGB),
        "LA": (encoded(Image.fromarray(rgba[..., [0, 3]], "LA")), grey3),
        "palette": (encoded(palette, transparency=5), RGB),
        "palette of alphas": (
            encoded(palette, transparency=b"\xff" * 5 + b"\0" + b"\xff" * 14), RGB
        ),
        "tRNS of RGB": (png(RGB, 8, 2, key), RGB),
        "tRNS of grey": (
            png(np.arange(20).reshape(5, 4), 8, 0, struct.pack(">H", 5)),
            np.repeat(np.arange(20, dtype=np.uint8).reshape(5, 4)[..., None], 3, -1),
        ),
        "tRNS of 16-bit grey": (png(levels, 16, 0, struct.pack(">H", 1500)), upper3),
        "tRNS of 1-bit grey": (
            png(black_white, 1, 0, struct.pack(">H", 0)), np.full((5, 4, 3), 255, np.uint8)
        ),
        "16-bit grey and alpha": (
            png(np.stack([levels, clear.astype(np.uint16) * 257], -1), 16, 4), upper3
        ),
        "WebP": (encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), RGB),
        "TIFF": (encoded(Image.fromarray(rgba), "TIFF"), RGB),
    }  # fmt: skip


@pytest.mark.parametrize("kind", holes())
def test_transparent_images_are_refused_or_put_on_a_background(kind):
    content, pixels = holes()[kind]
    with pytest.raises(DataError, match="a.png: image 7 is partly transparent; put it on") as told:
        decode(content, "a.png", 7)
    assert "data.alpha='white' or 'black'" in str(told.value)
    for options, level in ((WHITE, 255), (BLACK, 0)):
        wanted = pixels.copy()
        wanted[1, 1] = level
        np.testing.assert_array_equal(decode(content, "a.png", 7, options), wanted)


def test_half_transparent_pixels_are_blended():
    half = np.dstack([RGB, np.full((5, 4), 128, np.uint8)])
    content = encoded(Image.fromarray(half))
    mixed = (RGB.astype(float) * 128 + 255 * 127) / 255
    np.testing.assert_allclose(decode(content, "file", 0, WHITE), mixed, atol=1)
    np.testing.assert_array_equal(decode(content, "file", 0, DecodeOptions(alpha="drop")), RGB)


def test_a_transparent_colour_of_sixteen_bits_cannot_be_seen():
    wide = RGB.astype(np.uint16) * 257
    content = png(wide, 16, 2, struct.pack(">3H", *wide[1, 1].tolist()))
    # "drop" is what an index asks whether an image can be skipped.
    for options in (DecodeOptions(), WHITE, BLACK, TURNED, DecodeOptions(alpha="drop")):
        with pytest.raises(DataError) as caught:
            decode(content, "file", 0, options)
        assert str(caught.value) == (
            "file: image 0 has 16-bit colours of which one is transparent, which cannot be put on "
            "a background; store it with 8 bits, or let data.bad_images='skip' pass over it"
        )


def test_areas_above_the_limit_are_refused_before_they_are_decoded():
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 11_600, 11_600, 8, 2,
                                                             0, 0, 0))
    line = "image 3 has 11600×11600 pixels, and 134,217,727 is the limit; make it smaller"
    for call in (lambda content: decode(content, "big.png", 3),
                 lambda content: image_size(io.BytesIO(content))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(DataError, match="134,217,727 is the limit") as told:
                call(header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=line):
        decode(header + chunk(b"IDAT", b""), "big.png", 3)
    huge = header[:16] + struct.pack(">II", 50_000, 50_000) + header[24:]
    huge = huge[:29] + struct.pack(">I", zlib.crc32(huge[12:29]))
    with pytest.raises(DataError, match="more than 178956970 pixels, and 134,217,727") as told:
        decode(huge + chunk(b"IDAT", b""), "big.png", 3)
    assert "\n" not in str(told.value)
    assert MAX_PIXELS == 2**27 - 1


def test_a_large_image_below_the_limit_needs_no_warning():
    # Pillow itself would warn above 89,478,485 pixels.
    image = Image.new("1", (9500, 9500))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_size(io.BytesIO(encoded(image))) == (9500, 9500)


def test_a_cut_jpeg_is_damaged_even_if_a_byte_is_missing():
    random = np.random.RandomState(2).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(random), "JPEG")
    for content in (whole[:-100], whole[: len(whole) // 2]):
        with pytest.raises(DataError, match="file: image 3 is damaged"):
            decode(content, "file", 3)


def test_damage_is_named_not_raised_as_it_comes():
    random = np.random.RandomState(1)
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        whole = encoded(Image.fromarray(RGB), kind)
        for number in range(200):
            broken = bytearray(whole[: random.randint(len(whole) + 1)])
            for place in random.randint(0, max(len(broken), 1), 3 if broken else 0):
                broken[place] ^= 1 << random.randint(8)
            options = (DecodeOptions(), WHITE, TURNED)[number % 3]
            for call in (lambda content, chosen: decode(content, "file", 3, chosen),
                         lambda content, chosen: image_size(io.BytesIO(content), chosen)):
                try:
                    call(bytes(broken), options)
                except DataError as error:
                    assert "\n" not in str(error) and "image" in str(error)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no.png: image 0 cannot be read .No such file"):
        image_size(tmp_path / "no.png")
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert image_size(tmp_path / "a.png") == image_size(str(tmp_path / "a.png")) == (5, 4)


def test_options_are_sent_to_worker_processes():
    assert pickle.loads(pickle.dumps(WHITE)) == WHITE


def test_the_room_starts_no_jax():
    code = (
        "import sys, kdaug_jax.images.decode, kdaug_jax.images.readers;"
        "sys.exit(bool({'jax', 'grain', 'flax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_text_chunks_of_a_png_do_no_harm():
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 10_000, zip=True)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(RGB), pnginfo=info), "a", 0), RGB)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_levels_of_a_tiff_mean_what_its_tags_say(bits):
    """Pillow leaves 12 bits at a sixteenth, and 16 bits that count from white inverted."""
    levels = np.arange(0, 256, 17) << (bits - 8)
    wanted = np.arange(0, 256, 17)
    assert decode(tiff(levels, bits), "a.tif", 0)[0, :, 0].tolist() == wanted.tolist()
    if bits != 12:  # which Pillow does not read
        white = decode(tiff(levels, bits, photometric=0), "a.tif", 0)
        assert white[0, :, 0].tolist() == (255 - wanted).tolist()


@pytest.mark.parametrize("factor", [1, 257])
def test_a_palette_of_a_tiff_has_16_bits_or_8(factor):
    """Pillow divides by 256 in any case, so that a palette of 8 bits is black."""
    colours = np.random.RandomState(1).randint(0, 256, (256, 3))
    image = Image.fromarray(RGB[..., 0]).convert("P")
    image.putpalette(colours.astype(np.uint8).tobytes())
    stored, ours = (
        np.asarray(by * colours.T.ravel(), "<u2").tobytes() for by in (256, factor)
    )
    content = encoded(image, "TIFF")
    assert content.count(stored) == 1
    pixels = decode(content.replace(stored, ours), "a.tif", 0)
    np.testing.assert_array_equal(pixels, colours[RGB[..., 0]])


def test_signed_levels_of_a_tiff_are_refused():
    """As unsigned ones -1 would be white."""
    with pytest.raises(DataError, match="a.tif: image 3 has signed levels, whose range is not"):
        decode(tiff([-2, -1, 0, 1], 8, sample_format=2), "a.tif", 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_cut_image_is_refused_although_a_library_lets_pillow_load_it(kind, monkeypatch):
    content = encoded(Image.fromarray(np.tile(RGB, (16, 16, 1))), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="image 2 is damaged .*truncated"):
        decode(content[: len(content) // 2], "cut", 2)
