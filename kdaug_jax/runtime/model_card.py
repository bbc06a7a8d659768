"""Teacher directories: imported weights and a card that describes them.

Such a directory holds `card.json` and the weights, `checkpoints/0/`, with a manifest as any other
checkpoint. It is written whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kdaug_jax
from kdaug_jax.errors import CheckpointError, ConfigError, UserError
from kdaug_jax.files import explained
from kdaug_jax.runtime import checkpoint, digest, records, workdir

CARD = "card.json"
# Ends of the names of what a directory is made from, and of what it replaces meanwhile.
PARTIAL, OLD = ".partial", ".old"
# Arguments of every network, so not options of an architecture.
ARGUMENTS = ("name", "num_classes", "normalize", "num_branches", "replica_batch_size", "dtype")


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The description of a network whose weights or function come from a file.

    Attributes:
      arch: the network's name, see `kdaug_jax.models.names()`; empty for a function.
      num_classes: width of the logits.
      size: (height, width) in pixels of the images that it was made for.
      mean, std: per-channel statistics that it normalises with, in pixel units 0..255.
      class_names: in the order of the logits; empty where they are not known.
      options: of the architecture.
      layout: the naming scheme of the weights in that file.
      source: name of that file.
      sha256: of that file.
      crop: how an image of any size is brought to `size`, as stages of a view; empty where images
        have that size already.
      exif, alpha: how images are decoded, `data.exif` and `data.alpha` of the run.
      view: stages that images of `size` go through before the network, `eval.view` of the run;
        None where it is not known. A function has them inside.
      fill: the colour of `fill="mean"` in that view, in pixel units.
      channels: their order, "rgb".
      member: of the sweep that it was trained in, empty for a plain run.
      step, branch: which state of the run it is; the step is -1 where it is not known.
      precision: type of the computation.
      accuracy: on the validation split of the run, 0..1; None where it is not known.
      compared: what `import_weights --check` measured, empty where nothing was compared.
      notes: lines on what was not known when it was imported.
    """

    arch: str
    num_classes: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layout: str = ""
    source: str = ""
    sha256: str = ""
    crop: str = ""
    exif: str = "ignore"
    alpha: str = "refuse"
    view: str | None = None
    fill: tuple[float, ...] = ()
    channels: str = "rgb"
    member: str = ""
    step: int = -1
    branch: int = 0
    precision: str = "float32"
    accuracy: float | None = None
    compared: str = ""
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Returns a line for the console: which state of which run this is."""
        parts = [self.arch or "function"]
        parts += [f"member {self.member}"] if self.member else []
        parts += [f"step {self.step}, BatchNorm branch {self.branch}"] if self.step >= 0 else []
        parts += [f"options {json.dumps(dict(self.options))}"] if self.options else []
        measured = "not recorded" if self.accuracy is None else f"{100 * self.accuracy:.2f} %"
        return ", ".join([*parts, self.precision, f"validation accuracy {measured}"])


@contextlib.contextmanager
def made_whole(directory: Path, *, replace: str = "") -> Iterator[Path]:
    """Makes a directory all at once: it appears when the block ends without an error, or never.

    Args:
      directory: the directory to make.
      replace: a directory that holds a file of this name may be replaced; by default none may.

    Yields:
      A temporary directory beside it, to be filled.

    Raises:
      ConfigError: it is there already.
      CheckpointError: the disk is full or refuses.
    """
    refuse_existing(directory, replace)
    partial = directory.with_name(f".{directory.name}.{os.getpid()}{PARTIAL}")
    with workdir.writing(directory):
        try:
            _mend(directory)
            _make(partial, directory)
            yield partial
            old = directory.with_name(f".{directory.name}.{os.getpid()}{OLD}")
            if directory.exists():
                directory.rename(old)
            partial.rename(directory)
        except UserError as error:
            raise type(error)(*(
                text.replace(str(partial), str(directory))
                for text in (error.where, error.what, error.remedy)
            )) from None
        except OSError as error:
            if error.filename is not None:
                error.filename = os.fsdecode(error.filename).replace(str(partial), str(directory))
            raise
        finally:
            _mend(directory)


def _make(partial: Path, directory: Path) -> None:
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        kind = CheckpointError if error.errno in workdir.FULL else ConfigError
        what = f"cannot be made ({explained(error, directory.parent).strerror})"
        raise kind(str(directory), what, "make room or name another folder") from None


def _mend(directory: Path) -> None:
    """Brings back a directory that a kill took while it was replaced, and removes parts of it."""
    for path in directory.parent.glob(f".{glob.escape(directory.name)}.*"):
        owner, kind = path.name.removeprefix(f".{directory.name}.").rpartition(".")[::2]
        if f".{kind}" not in (OLD, PARTIAL) or not owner.isdecimal() or _is_another(int(owner)):
            continue
        if f".{kind}" == OLD and not directory.exists():
            path.rename(directory)
        shutil.rmtree(path, ignore_errors=True)


def _is_another(process: int) -> bool:
    """Returns whether a process that is not this one runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def refuse_existing(directory: Path, replace: str = "") -> None:
    """Validates that a directory is absent, empty or may be replaced; raises ConfigError."""
    if not directory.exists() or (replace and (directory / replace).is_file()):
        return
    if directory.is_dir() and not any(directory.iterdir()):
        return
    raise ConfigError(str(directory), "is there already", "name another folder, or delete it")


def write(directory: Path, card: ModelCard, variables: Mapping[str, Any]) -> None:
    """Writes a teacher directory.

    Args:
      directory: absolute; must be absent or empty.
      card: describes the network.
      variables: `{"params": tree, "batch_stats": tree}` of arrays.

    Raises:
      ConfigError: the directory holds something.
      CheckpointError: it could not be written.
    """
    with made_whole(directory) as partial:
        tree = {part: variables[part] for part in ("params", "batch_stats") if variables[part]}
        checkpoint.write_once(partial / "checkpoints", tree)
        write_card(partial / CARD, card)


def write_card(path: Path, card: ModelCard) -> None:
    """Writes a card, with the version of the package that wrote it, for `read`."""
    workdir.write_json(
        path, {"version": kdaug_jax.__version__, **json.loads(sealed(dataclasses.asdict(card)))}
    )


def read(path: Path) -> ModelCard | None:
    """Reads a card; None where there is no such file.

    Args:
      path: the file.

    Raises:
      ConfigError: it is not a card, was written by another version, or a field has an impossible
        value.
    """
    stored = workdir.read_json(path)
    if stored is None:
        return None
    if isinstance(stored, dict):
        again = "import the weights again" if path.name == CARD else "export it again"
        records.require_version(path, stored.pop("version", records.FIRST_VERSION), again)
    return ModelCard(**checked(str(path), stored))


def sealed(fields: Mapping[str, Any]) -> str:
    """Returns the fields of a card as JSON with a checksum of them, which `checked` compares."""
    return json.dumps(digest.sealed(fields), sort_keys=True)


def require_preprocessing(where: str, stored: Mapping[str, Any]) -> None:
    """Validates that a card says how images are prepared, instead of assuming the usual.

    Args:
      where: the file, for messages.
      stored: the fields that its card has.

    Raises:
      ConfigError: one of them is missing.
    """
    for name in ("view", "mean", "std", "size", "channels"):
        if stored.get(name) is None:
            raise ConfigError(
                where, f"has a card that does not say '{name}', so what the network was fed is not "
                "known", "export it again",
            )


def checked(where: str, stored: Any) -> dict[str, Any]:
    """Validates the fields of a card.

    Args:
      where: the file, for messages.
      stored: the JSON value of the file.

    Returns:
      The fields of a `ModelCard`.

    Raises:
      ConfigError: it is not a card, or a field has an impossible value.
    """
    known = {field.name for field in dataclasses.fields(ModelCard)}
    if isinstance(stored, dict):
        what = "has a card that is not as it was written"
        stored = digest.unsealed(where, stored, CheckpointError, what, "copy it again")
    if not isinstance(stored, dict) or not set(stored) <= known:
        raise ConfigError(where, "is no card of this package", "import the weights again")
    missing = [name for name in ("arch", "num_classes", "size", "mean", "std")
               if name not in stored]
    wrong = missing or [name for name, value in stored.items() if not _fits(name, value)]
    if wrong:
        held = ascii(stored.get(wrong[0]))[:80]
        what = f"the card has no '{wrong[0]}'" if missing else f"the card's {wrong[0]} is {held}"
        raise ConfigError(where, what, "import the weights again")
    fields = {name: tuple(value) if isinstance(value, list) else value
              for name, value in stored.items()}
    counts = len(fields["mean"]), len(fields["std"]), len(fields.get("class_names", ()))
    if counts[0] != counts[1] or counts[2] not in (0, fields["num_classes"]):
        raise ConfigError(
            where, f"the card has {counts[0]} means, {counts[1]} deviations, "
            f"{fields['num_classes']} classes, {counts[2]} class names", "import the weights again",
        )
    return fields


def _fits(name: str, value: Any) -> bool:
    """Returns whether the value of a field of a card is possible."""
    def numbers(value, low):
        return isinstance(value, list) and all(
            type(number) in (int, float) and low < number < 1e9 for number in value
        )

    if name == "num_classes":
        return type(value) is int and 0 < value < 1 << 31
    if name == "size":
        return numbers(value, 0) and len(value) == 2 and all(type(side) is int for side in value)
    if name in ("mean", "std", "fill"):
        return numbers(value, 0.0 if name == "std" else -float("inf"))
    if name in ("step", "branch"):
        return type(value) is int and value >= (-1 if name == "step" else 0)
    if name == "accuracy":
        return value is None or type(value) in (int, float) and 0.0 <= value <= 1.0
    if name == "channels":
        return value == "rgb"
    if name == "view":
        return value is None or isinstance(value, str)
    if name in ("class_names", "notes"):
        return isinstance(value, list) and all(isinstance(label, str) for label in value)
    if name == "options":
        return isinstance(value, dict) and not set(value) & set(ARGUMENTS)
    return isinstance(value, str)
