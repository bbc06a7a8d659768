"""The leading part of a view: the crop that is cut on the host, while an image is decoded.

Images of several sizes make no batch before a crop has given them one size, so such a crop comes
first in each view, `repeat(n)` aside. It is drawn from the keys that the device would use, and cut
with the same arithmetic: where a crop runs changes no pixel. One image is decoded once for all its
crops.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from kdaug_jax.augment.stage import Stage
from kdaug_jax.data.stream import CropPlan
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.binding import located
from kdaug_jax.images import crops, threefry
from kdaug_jax.images.crops import CROPS, Crop
from kdaug_jax.types import Range

# What to write where a view does not begin with a crop.
FIRST = (
    "begin it with random_resized_crop(224), center_crop(224), resize(224, 224) or "
    "resize_shorter(256)|crop_center(224)"
)
# Numbers of crops that set no size, so that members of a population may differ in them. They are
# float64 where their products decide whole numbers; the devices do not read them.
NUMBERS = {
    "scale": Range(np.float64, 0.0, 1.0, open=True),
    "ratio": Range(np.float64, 0.0, open=True),
    "padding": Range(np.int32, 0),
}


class Prefix(NamedTuple):
    """The first stages of a view, carried out on the host.

    Attributes:
      calls: how many calls of the view they are.
      draws: how many draws of each example lie side by side after them.
      size: height and width of the images after them, in pixels.
      dtype: of these images, uint8 or float32.
    """

    calls: int
    draws: int
    size: tuple[int, int]
    dtype: Any


class Leading(NamedTuple):
    """The leading part of a view.

    Attributes:
      calls: how many calls of the view it takes, a `repeat` among them.
      draws: how many crops of each example lie side by side.
      roles: of its crops, which name their draws.
      crops: what is cut, one after another.
    """

    calls: int
    draws: int
    roles: tuple[str, ...]
    crops: tuple[Crop, ...]

    def numbers(self) -> dict[str, tuple[np.ndarray, Range]]:
        """Returns its numbers that set no size, with their ranges, as `role.argument`."""
        return {
            f"{role}.{name}": (np.asarray(crop.arguments[name], legal.dtype), legal)
            for role, crop in zip(self.roles, self.crops, strict=True)
            for name, legal in NUMBERS.items() if name in crop.arguments
        }

    def with_numbers(self, path: str, hparams: Mapping[str, Any]) -> Leading:
        """Returns the leading part with other numbers.

        Args:
          path: `views.<name>` of its view.
          hparams: numbers by path, `numbers` of this view among them.

        Raises:
          ConfigError: numbers that do not fit each other.
        """
        changed = []
        for role, crop in zip(self.roles, self.crops, strict=True):
            given = {
                name: np.asarray(hparams[f"{path}.{role}.{name}"], NUMBERS[name].dtype).tolist()
                for name in NUMBERS if name in crop.arguments
            }
            changed.append(crop._replace(arguments={**crop.arguments, **given}))
            with located(f"{path}.{role}"):
                crops.check(changed[-1], None)
        return self._replace(crops=tuple(changed))

    @property
    def plan(self) -> CropPlan:
        """Its result: crops an image, how they are resized, their size and dtype."""
        size, dtype = crops.output(self.crops)
        return CropPlan(self.draws, crops.methods(self.crops), size, dtype)

    @property
    def prefix(self) -> Prefix:
        """The same as the first stages of its view."""
        size, dtype = crops.output(self.crops)
        return Prefix(self.calls, self.draws, size, dtype)


class LeadingReader:
    """Finds the leading part of a view while its calls are read one after another."""

    def __init__(self, where: str, mixed: str):
        """Starts before the first call.

        Args:
          where: config path of the view, for messages.
          mixed: `Info.mixed`; not empty if there must be a leading part.
        """
        self._where, self._mixed, self._open = where, mixed, True
        self._calls, self._draws = 0, 1
        self._roles: list[str] = []
        self._crops: list[Crop] = []

    @property
    def open(self) -> bool:
        """Whether all calls so far belong to it, and none has given the images one size."""
        return self._open

    def admit(self, stage: Stage) -> None:
        """Ends the leading part before a stage that cannot belong to it.

        Raises:
          ConfigError: sizes are mixed.
        """
        if self._open and not stage.host and not (stage.form == "repeat" and not self._crops):
            self.end()

    def add(self, role: str, stage: Stage, static: Mapping[str, Any]) -> Leading | None:
        """Reads a call that `admit` left in the leading part; returns that if it is complete."""
        self._calls += 1
        if stage.form == "repeat":
            self._draws *= static["n"]
            return None
        self._roles.append(role)
        self._crops.append(Crop(stage.host, dict(static)))
        if not CROPS[stage.host].fixes_size:
            return None
        self._open = False
        return Leading(self._calls, self._draws, tuple(self._roles), tuple(self._crops))

    def end(self) -> None:
        """Validates that the view may go on, or end, without a common size.

        Raises:
          ConfigError: sizes are mixed.
        """
        if self._open and self._mixed:
            if self._crops:
                raise ConfigError(
                    f"{self._where}.{self._roles[-1]}", "leaves images of several sizes",
                    f"write {self._crops[-1].kind}(...)|crop_center(224) or |crop_random(224)",
                )
            raise ConfigError(
                self._where, f"the data set holds images of several sizes ({self._mixed}), and the "
                "view does not fix one", FIRST,
            )
        self._open = False


def draw(
    name: str, leading: Leading, seed: int, epoch: int, index: np.ndarray, sizes: np.ndarray
) -> np.ndarray:
    """Draws the boxes of a view's leading part.

    Args:
      name: of the view.
      leading: its leading part.
      seed: of the views.
      epoch: of the run.
      index: `i32[n]`, positions of the examples in their base split.
      sizes: `i32[n,2]`, height and width of their images.

    Returns:
      `i32[n,draws,K,6]`, steps for `images.crops.cut`.

    Raises:
      ConfigError: an image is too small or too large for the crop.
    """
    draws = leading.draws
    rows = np.repeat(np.arange(len(index)), draws)
    copies = np.tile(np.arange(draws), len(index))

    def keys(number: int) -> np.ndarray:
        # As `making` derives them on the device.
        drawn = threefry.example_keys(seed, f"view/{name}", epoch, index[rows])
        drawn = threefry.fold(drawn, leading.roles[number])
        return threefry.redraw(drawn, copies) if draws > 1 else drawn

    with located(f"views.{name}"):
        steps = crops.plan(leading.crops, crops.words_of(leading.crops, keys), sizes[rows])
    return steps.reshape(len(index), draws, len(leading.crops), crops.STEP)


def cut_image(
    name: str, leading: Leading, image: Image.Image, number: int = 0, seed: int = 0
) -> np.ndarray:
    """Carries out the leading part of a view on one image.

    Args:
      name: of the view.
      leading: its leading part.
      image: of mode RGB, in full.
      number: position of the image, which its draws depend on.
      seed: of the views.

    Returns:
      `[draws,H,W,3]`, `u8` or `f32`.

    Raises:
      ConfigError: the image is too small or too large.
    """
    sizes = np.array([[image.height, image.width]], np.int32)
    steps = draw(name, leading, seed, 0, np.array([number], np.int32), sizes)
    methods = crops.methods(leading.crops)
    return np.stack([crops.cut(image, each, methods) for each in steps[0]])


class Cutter(NamedTuple):
    """What a batch needs from the host: whole images or not, and the crops of views.

    Attributes:
      stored: whether a view starts from whole images.
      leading: leading parts by view.
    """

    stored: bool
    leading: dict[str, Leading]

    def with_numbers(self, hparams: Mapping[str, Any]) -> Cutter:
        """Returns the same with the numbers of one member, see `Leading.with_numbers`."""
        return self._replace(leading={
            name: leading.with_numbers(f"views.{name}", hparams)
            for name, leading in self.leading.items()
        })

    def of(self, views: Collection[str]) -> Cutter:
        """Returns the same with the crops of some views only."""
        return self._replace(leading={
            name: leading for name, leading in self.leading.items() if name in views
        })

    def crops(
        self, seed: int, epoch: int, index: np.ndarray, sizes: np.ndarray
    ) -> dict[str, tuple[CropPlan, np.ndarray]]:
        """Draws the boxes of a batch, see `draw`; by view."""
        return {
            name: (leading.plan, draw(name, leading, seed, epoch, index, sizes))
            for name, leading in self.leading.items()
        }

    def check(self, sizes: np.ndarray, where: str, path: str = "") -> None:
        """Validates every size of a split, so that no image is refused after hours of training.

        Args:
          sizes: `i32[N,2]`.
          where: names the split, for messages.
          path: config path of the view, for messages; by default `views.<name>`.

        Raises:
          ConfigError: an image is too small or too large for a crop.
        """
        for name, leading in self.leading.items():
            refused = crops.misfit(leading.crops, sizes)
            if refused is not None:
                number, error = refused
                what = f"{where}, example {number}: {error.what}"
                raise ConfigError(path or f"views.{name}", what, error.remedy)


def cutter(specs: Sequence[Any]) -> Cutter:
    """Returns what views need from the host.

    Args:
      specs: the views to make, `ViewSpec`s.
    """
    starts = [spec for spec in specs if spec.source is None]
    return Cutter(
        any(spec.leading is None for spec in starts),
        {spec.name: spec.leading for spec in starts if spec.leading is not None},
    )
