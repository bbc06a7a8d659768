"""How a source reads its data: the fields of `config.data` that are the same for every source."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kdaug_jax.errors import ConfigError, suggest
from kdaug_jax.images.decode import ALPHA, EXIF, DecodeOptions

BAD_IMAGES = ("refuse", "skip")


def no_bar(done: float, text: str) -> None:
    """Shows no progress."""
    del done, text


class ReadOptions(NamedTuple):
    """How images are read.

    Attributes:
      exif: `data.exif`, "ignore" or "apply": whether images are turned as their EXIF notes.
      alpha: `data.alpha`, "refuse", "white" or "black": the background of transparent images.
      bad_images: `data.bad_images`, "refuse" or "skip": whether an image that cannot be decoded is
        replaced by the next good one.
      image: `data.image`, the column of images in a parquet file, or the suffix of images in a tar
        archive; "" where only one comes into question.
      label: `data.label`, the same for labels.
      say: prints a line, such as what is passed over.
      progress: shows a bar: fraction 0..1, text.
    """

    exif: str = "ignore"
    alpha: str = "refuse"
    bad_images: str = "refuse"
    image: str = ""
    label: str = ""
    say: Callable[[str], None] = print
    progress: Callable[[float, str], None] = no_bar

    @property
    def decoding(self) -> DecodeOptions:
        """The part that decides pixels."""
        return DecodeOptions(self.exif, self.alpha)


DEFAULTS = ReadOptions()


def check_options(options: ReadOptions) -> None:
    """Validates the options.

    Raises:
      ConfigError: a value is none of those that its field has.
    """
    for name, known in (("exif", EXIF), ("alpha", ALPHA), ("bad_images", BAD_IMAGES)):
        value = str(getattr(options, name))
        if value not in known:
            raise ConfigError(f"data.{name}", f"unknown value '{value}'", suggest(value, known))
