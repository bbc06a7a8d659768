"""The expressions that select a part of a base split: slices, stratified slices, PBA's subsets.

- `train`: the whole base split
- `train[:90%]`, `train[90%:]`: by percent
- `train[1000:2000]`, `train[-500:]`: by number, from the end where negative
- `stratified(train[:90%])`: the slice is taken of every class, in the order of the files
- `stratified(train[:90%], shuffle=0)`: the same in a random order, of which the number is the seed;
  else the last tenth of a class are its last folders, or its last photographs
- `holdout(15%)`, for `data.train` and `data.validation`: the splits `train` and `validation` where
  there are both; else 15 % of each class of `train`, at random, are for validation
- `pba_reduced(4000, 46000)`: of `train` in a random order, the first 4,000 for `data.train` and the
  next 46,000 for `data.validation`

A percentage p of N examples ends before example floor(N·p/100), and -p% means (100 - p)%. So two
slices that share a bound never share an example and leave none out.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import numpy as np

from kdaug_jax.data.dataset import Split
from kdaug_jax.data.index import next_good
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.images.encoded import EncodedReader
from kdaug_jax.images.readers import FileReader

_BOUND = r"\s*(-?\d{1,18}(?:\.\d{1,18})?%|-?\d{1,18})?\s*"
_SLICE = re.compile(rf"([^\[\](),:%]+?)\s*(?:\[{_BOUND}:{_BOUND}\])?")
_STRATIFIED = re.compile(r"stratified\((.*?)(?:,\s*shuffle\s*=\s*(\d{1,9})\s*)?\)")
_HOLDOUT = re.compile(r"holdout\(\s*(\d{1,2}(?:\.\d{1,18})?)\s*%\s*\)")
_PBA = re.compile(r"pba_reduced\(\s*(\d{1,18})\s*,\s*(\d{1,18})\s*\)")
PARTED = ("train", "validation")  # what `holdout` and `pba_reduced` part "train" into
SYNONYMS = {"val": "validation", "valid": "validation"}
# Seed of the order of examples that a stratified order puts at one place.
TIES = 16
EXAMPLES = (
    "write it like train[:90%], stratified(train[90%:]), holdout(10%) or pba_reduced(4000, 46000)"
)


def choose(splits: Mapping[str, Split], use: str, text: str, source: str) -> Split:
    """Returns the part of a base split that an expression selects.

    Args:
      splits: the base splits.
      use: "train", "validation" or "test", the purpose of the part.
      text: an expression of the list above.
      source: where the splits come from, for messages.

    Returns:
      The part, which keeps its examples' positions in the base split.

    Raises:
      ConfigError: the text cannot be read, names no base split, goes past its end, holds no
        example, or slices a set that lies class by class, which leaves classes out.
    """
    where, text = f"data.{use}", text.strip()
    if match := _PBA.fullmatch(text):
        base = _base(splits, where, "train", source)
        return base.take(_pba_reduced(where, use, int(match[1]), int(match[2]), len(base)))
    if match := _HOLDOUT.fullmatch(text):
        text = _held_out(where, use, match[1], splits, source)
    inner = _STRATIFIED.fullmatch(text)
    match = _SLICE.fullmatch(inner[1].strip() if inner else text)
    if not match:
        raise ConfigError(where, f"cannot read '{text}'", EXAMPLES)
    base = _base(splits, where, match[1], source)
    size = len(base)
    start, stop = _position(where, match[2], 0, size), _position(where, match[3], size, size)
    if start >= stop:
        raise ConfigError(
            where, f"'{text}' holds none of the {size} examples of '{match[1]}'",
            f"it goes from {start} to {stop}",
        )
    if stop - start == size:
        return base
    if inner:
        # Sorted, so that a part keeps the order of its base split.
        seed = None if inner[2] is None else int(inner[2])
        return base.take(np.sort(stratified_order(base.label, seed)[start:stop]))
    _check_slice(where, text, match[1], base.label, start, stop)
    return base.take(np.arange(start, stop))


def replaced_within(part: Split) -> Split:
    """Returns a part whose images that cannot be decoded are replaced by others of the part.

    The next good image of the base split, which stands in the place of such an image, may belong to
    another part: a network would be trained on what it is evaluated on.

    Args:
      part: of a base split on disk; others are returned as they are.

    Raises:
      DataError: none of its images can be decoded.
    """
    reader = part.reader
    if not isinstance(reader, FileReader | EncodedReader):
        return part
    bad = reader.rows != part.index
    if not bad.any():
        return part
    place = next_good(bad)
    if place is None:
        where = reader.directory if isinstance(reader, FileReader) else reader.where
        raise DataError(where, "no image of a part can be decoded", "take a larger part")
    return dataclasses.replace(part, reader=reader.take(place), label=part.label[place])


def _check_slice(
    where: str, text: str, name: str, label: np.ndarray, start: int, stop: int
) -> None:
    """Raises ConfigError for a slice of a set whose examples lie class by class."""
    counts = np.bincount(label)
    counts = counts[counts > 0]
    if len(counts) > 1 and np.count_nonzero(np.diff(label)) == len(counts) - 1:
        order = "is sorted by class" if (np.diff(label) >= 0).all() else "lies class by class"
        raise ConfigError(
            where, f"'{name}' {order}, so '{text}' leaves classes out", f"use stratified({text})"
        )
    missing = len(counts) - len(np.unique(label[start:stop]))
    # Of a random part, as a Poisson number; three deviations more are no chance.
    expected = float(np.sum((1 - (stop - start) / len(label)) ** counts))
    if missing > expected + 3 * expected**0.5:
        raise ConfigError(
            where, f"'{text}' leaves out {missing} of the {len(counts)} classes of '{name}', more "
            f"than a part in random order would ({expected:.2g})", f"use stratified({text})",
        )


def _held_out(
    where: str, use: str, percent: str, splits: Collection[str], source: str
) -> str:
    """Returns the expression that `holdout` stands for."""
    if use not in PARTED:
        raise ConfigError(
            where, "holdout has a part for data.train and one for data.validation",
            "name another split",
        )
    if not Fraction(percent):
        raise ConfigError(where, "holdout(0%) leaves nothing for validation", "take more than 0%")
    if "train" not in splits:
        lower = {name.lower(): name for name in splits}
        train = lower[(_close("train", lower) or list(lower))[0]]
        validation = next((lower[name] for name in lower if name.startswith("val")), None)
        texts = (train, validation) if validation else (
            f"stratified({train}[:-{percent}%], shuffle=0)",
            f"stratified({train}[-{percent}%:], shuffle=0)",
        )
        raise ConfigError(
            where, f"'{source}' has no split 'train', but {', '.join(splits)}",
            "set data.train='{}' and data.validation='{}'".format(*texts),
        )
    if "validation" in splits:
        return use
    kept = f"-{percent}%"
    return f"stratified(train[{f':{kept}' if use == 'train' else f'{kept}:'}], shuffle=0)"


def describe_parts(texts: Mapping[str, str], splits: Collection[str]) -> list[str]:
    """Returns lines on what the expressions of a run make of the splits without being told.

    Args:
      texts: expressions by use.
      splits: names of the base splits.

    Raises:
      ConfigError: `holdout` stands for one of training and validation, or in two sizes.
    """
    held = {use: _HOLDOUT.fullmatch(texts[use].strip()) for use in PARTED if use in texts}
    shares = {use: match and Fraction(match[1]) for use, match in held.items()}
    if len(set(shares.values())) > 1:
        use = next(use for use in PARTED if shares[use] is not None)
        other = next(name for name in PARTED if name != use)
        raise ConfigError(
            f"data.{use}", f"'{texts[use]}' parts the data in two, and data.{other} is "
            f"'{texts[other]}'", f"write data.{other}='{texts[use]}'",
        )
    lines = []
    if shares.get("validation") is not None and "train" in splits:
        percent = held["validation"][1]
        lines.append(
            "nothing of 'train' is held out, since there is a split 'validation'"
            if "validation" in splits else
            f"{percent} % of each class of 'train' are held out for validation, at random"
        )
    if set(texts) == set(PARTED) and "test" in splits:  # of a run that names no test split
        if not any(_base_name(text) == "test" for text in texts.values()):
            lines.append(
                "there is a split 'test', which is not used; --config.data.test=test reports on it"
            )
    return lines


def base_name(name: str, splits: Collection[str]) -> str:
    """Returns the base split that a name stands for: "val" and "valid" are "validation"."""
    return SYNONYMS.get(name, name) if name not in splits else name


def missing_classes(
    chosen: Mapping[str, Split], class_names: Sequence[str], prefix: str = "data."
) -> list[str]:
    """Returns a line for each part that has no example of some classes.

    Args:
      chosen: parts by use.
      class_names: by number.
      prefix: put before each use to name a part.
    """
    counts = {
        use: np.bincount(split.label, minlength=len(class_names)) for use, split in chosen.items()
    }
    lines = []
    for use, count in counts.items():
        absent = np.flatnonzero(count == 0)
        if not len(absent):
            continue
        named = ", ".join(f"'{class_names[number]}'" for number in absent[:5])
        line = f"{prefix}{use} has no example of {len(absent):,} of {len(count):,} classes: {named}"
        line += ", ..." if len(absent) > 5 else ""
        held = {
            other: int(others[absent].sum()) for other, others in counts.items() if other != use
        }
        held = [f"{prefix}{other} has {number:,}" for other, number in held.items() if number]
        if use == "train" and held:
            line += f"; of these classes, which cannot be learnt, {' and '.join(held)}"
        lines.append(line)
    return lines


def overlaps(
    chosen: Mapping[str, Split], texts: Mapping[str, str], part: str = "train"
) -> dict[str, int]:
    """Returns how many examples of other parts are in a part too.

    Args:
      chosen: parts by use, `part` among them.
      texts: the expressions that selected them.
      part: a use.

    Returns:
      `{use: count}` of those that share any.
    """
    base = _base_name(texts[part])
    if part in PARTED and _HOLDOUT.fullmatch(texts["train"].strip()):
        # Its two parts never share any.
        texts = {use: text for use, text in texts.items() if use == part or use not in PARTED}
    counts = {
        use: int(np.isin(split.index, chosen[part].index).sum())
        for use, split in chosen.items()
        if use != part and use in texts and _base_name(texts[use]) == base
    }
    return {use: count for use, count in counts.items() if count}


def _base_name(text: str) -> str:
    text = text.strip()
    inner = _STRATIFIED.fullmatch(text)
    match = _SLICE.fullmatch(inner[1].strip() if inner else text)
    return "train" if match is None else base_name(match[1], ())  # None: of parts of "train"


def stratified_order(label: np.ndarray, seed: int | None = None) -> np.ndarray:
    """Returns an order of which every slice holds all classes in proportion.

    Example j of the n of its class stands at (j + 1/2) / n of the whole. So a slice of L out of N
    examples holds L·n/N of each class, give or take rounding, taken in base order or a random one.

    Examples of several classes that stand at one place come in a random order, a fixed one: a
    slice that ends among them holds any of their classes, not those of lower numbers.

    Args:
      label: `i32[N]`.
      seed: of the random order within each class, None for base order.

    Returns:
      `i64[N]`, a permutation of 0..N-1.
    """
    position = np.empty(len(label))
    random = None if seed is None else np.random.RandomState(seed)
    for number in np.unique(label):
        members = np.flatnonzero(label == number)
        if random is not None:
            members = random.permutation(members)
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    among_equal = np.random.RandomState(TIES if seed is None else (TIES, seed))
    return np.lexsort((among_equal.permutation(len(label)), position))


def _base(splits: Mapping[str, Split], where: str, name: str, source: str) -> Split:
    base = base_name(name, splits)
    if base in splits:
        return splits[base]
    known = ", ".join(splits)
    if base == "validation" and "train" in splits:
        # Stratified, since a set that is sorted by class is refused otherwise.
        remedy = ("take it from train: data.train='stratified(train[:90%])', "
                  "data.validation='stratified(train[90%:])'")
    else:
        test = where == "data.test"
        # What a run learns or chooses by is no advice for what it is tested on.
        free = [name for name in splits if not test or name not in PARTED]
        named = (_close(base, free) or free)[:1]
        remedies = [f"{where}='{name}' or another of these" for name in named]
        remedies += ["data.test='' if there is no test split"] * test
        remedy = "set " + ", or ".join(remedies)
    raise ConfigError(where, f"'{source}' has no split '{name}', but {known}", remedy)


def _close(name: str, known: Collection[str]) -> list[str]:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.5)


def _position(where: str, bound: str | None, default: int, size: int) -> int:
    if bound is None:
        return default
    number = Fraction(bound.rstrip("%"))
    whole = 100 if bound.endswith("%") else size
    if abs(number) > whole:
        raise ConfigError(
            where, f"'{bound}' goes past the end of {size} examples",
            f"at most {whole}" + ("%" if bound.endswith("%") else ""),
        )
    if bound.startswith("-"):
        number += whole
    return int(number * size / whole)


def _pba_reduced(where: str, use: str, train: int, validation: int, size: int) -> np.ndarray:
    # Ho et al., "Population Based Augmentation", ICML 2019: NumPy's legacy generator with seed 0.
    if use not in PARTED:
        raise ConfigError(
            where, "pba_reduced has a part for data.train and one for data.validation",
            "name another split",
        )
    if train + validation > size or not train or not validation:
        raise ConfigError(
            where, f"pba_reduced({train}, {validation}) of {size} examples",
            f"the two numbers must be positive and their sum at most {size}",
        )
    order = np.random.RandomState(0).permutation(size)
    return order[:train] if use == "train" else order[train : train + validation]
