"""Loads the data of a config, and what a run recognises them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdaug_jax import data
from kdaug_jax.data.contents import content_digest, is_small, split_digest
from kdaug_jax.data.options import no_bar
from kdaug_jax.errors import DataError, UserError, distinct
from kdaug_jax.types import Info

USES = ("train", "validation", "test")
OPTIONS = ("exif", "alpha", "bad_images", "image", "label")
# Fields of `config.data` that decide what is read.
READ = ("source", *USES, *OPTIONS)


def read_options(
    section: Mapping[str, Any], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> data.ReadOptions:
    """Returns how images are read.

    Args:
      section: `config.data`, complete.
      say: prints a line.
      progress: shows a bar while a data set is indexed.
    """
    return data.ReadOptions(
        **{name: section[name] for name in OPTIONS}, say=say, progress=progress
    )


def load_data(
    section: Mapping[str, Any], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> data.Dataset:
    """Loads the splits that a config names.

    Args:
      section: `config.data`, complete.
      say: prints a line.
      progress: shows a bar while a data set is indexed.

    Returns:
      Splits for "train" and "validation", and for "test" unless `data.test` is empty.

    Raises:
      UserError: see `data.load`.
    """
    splits = {use: section[use] for use in USES if section[use] or use != "test"}
    return data.load(section["source"], splits, read_options(section, say, progress))


def data_record(
    dataset: data.Dataset, info: Info, files: Mapping[str, str], sets: Sequence[Any] = ()
) -> dict[str, Any]:
    """Returns what a run stores of its data.

    Args:
      dataset: of the run.
      info: facts of it.
      files: the digests of those that the config names, see `experiment.named_files`.
      sets: the data sets of `eval.sets`, see `evaluation.sets.SetData`.

    Returns:
      `{"mixed", "class_names", "facts", "splits", "sets", "files"}`: whether images have several
      sizes, size, mean and deviation of the training split, examples and digest of each split and
      set, and the digest of each file that the config names.
    """
    facts = {"size": info.size and list(info.size), "mean": list(info.mean), "std": list(info.std)}
    return {"mixed": bool(info.mixed), "facts": facts, **_recognised(dataset, files, sets)}


def _recognised(
    dataset: data.Dataset, files: Mapping[str, str], sets: Sequence[Any] = ()
) -> dict[str, Any]:
    return {
        "class_names": list(dataset.class_names),
        "splits": {use: _described(split) for use, split in dataset.splits.items()},
        "sets": {item.name: {"source": item.source, **_described(item.split)} for item in sets},
        "files": dict(files),
    }


def _described(split: data.Split) -> dict[str, Any]:
    return {"examples": len(split), "digest": split_digest(split)}


def data_contents(
    dataset: data.Dataset, verify: bool, options: data.ReadOptions
) -> dict[str, str]:
    """Reads the images of small splits, or of all, and returns the digest of each split.

    Args:
      dataset: of the run.
      verify: whether all images are read.
      options: how they are read.
    """
    return {
        use: content_digest(split, use, options) for use, split in dataset.splits.items()
        if is_small(split) or (verify and not split.in_memory)
    }


def data_changes(
    stored: Mapping[str, Any], now: Mapping[str, Any], contents: Mapping[str, str] = {}
) -> list[str]:
    """Returns a line for each part of the data that is not the one that a run stored.

    Args:
      stored: the record of the run, of which "data" and "contents" are used.
      now: what `data_record` returns now.
      contents: what `data_contents` returns now.
    """
    before = stored.get("data", {})
    lines = class_changes(before.get("class_names", ()), now["class_names"])
    for part in ("splits", "sets"):
        for name, old in before.get(part, {}).items():
            new = now[part].get(name)
            if new is None or new.get("source") != old.get("source"):
                continue
            differs = new["digest"] != old["digest"]
            if new["examples"] != old["examples"]:
                lines.append(f"{name}: {old['examples']:,} examples -> {new['examples']:,}")
            elif differs:
                lines.append(f"{name}: names, labels, sizes or bytes of its files differ")
            elif part == "splits":
                digest = stored.get("contents", {}).get(name)
                if digest and contents.get(name, digest) != digest:
                    lines.append(f"{name}: the contents of its images differ")
    return lines + [
        f"the file {name} has other contents" for name, digest in before.get("files", {}).items()
        if now["files"].get(name, digest) != digest
    ]


def class_changes(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """Returns a line if the class names differ from those of a run; none where it stored none."""
    if not before or list(before) == list(now):
        return []
    if len(before) != len(now):
        lost = sorted(set(before) - set(now)) + sorted(set(now) - set(before))
        example = f", such as '{lost[0]}'" if lost else ""
        return [f"{len(before)} classes -> {len(now)}{example}"]
    number = next(i for i, name in enumerate(before) if name != now[i])
    was, is_now = distinct(before[number], now[number])
    return [f"class {number} was '{was}' and is '{is_now}'"]


def refuse_changes(source: str, altered: Sequence[str], remedies: str) -> None:
    """Raises DataError if the data of a run are not those that it stored.

    Args:
      source: `data.source`.
      altered: what `data_changes` returned.
      remedies: what may be done beside restoring the data.
    """
    if altered:
        what = f"changed since the run was started ({'; '.join(altered)})"
        raise DataError(source, what, f"restore it, {remedies}")


def require_recorded(
    stored: Mapping[str, Any], class_names: Sequence[str], files: Mapping[str, str], verify: bool,
    say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> None:
    """Validates that the data of a run are those that it recorded, as far as they can be read.

    Args:
      stored: the record of the run.
      class_names: what its directory holds as classes.json.
      files: the digests of those that its config names.
      verify: whether the contents of all images are read and compared.
      say: tells if the data cannot be read.
      progress: shows a bar while a data set is indexed.

    Raises:
      DataError: naming what changed.
    """
    section = stored["config"]["data"]
    recorded = stored["data"].get("class_names", ())
    refuse_changes("classes.json", class_changes(recorded, class_names), "or train again")
    try:
        dataset = load_data(section, say, progress)
    except UserError as error:
        say(f"the data are not compared with those of the run: {error}")
        return
    contents = data_contents(dataset, verify, read_options(section, say, progress))
    now = _recognised(dataset, files)
    refuse_changes(section["source"], data_changes(stored, now, contents), "or train again")
