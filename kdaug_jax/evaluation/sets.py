"""Further data sets that a run is evaluated on: corrupted, drawn or newly collected images.

They are never used for a choice. A set may hold some of the network's classes only: its logits are
then cut to these.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax import data
from kdaug_jax.data.class_maps import IMAGENET_A, IMAGENET_R, class_key, is_wordnet_id
from kdaug_jax.data.corruptions import ALEXNET_ERRORS, CORRUPTIONS, SEVERITIES
from kdaug_jax.data.options import no_bar
from kdaug_jax.data.recorded import class_changes
from kdaug_jax.data.sources.argument import split_argument
from kdaug_jax.data.statistics import describe_sizes
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.build import parse_view
from kdaug_jax.evaluation.data_sets import read_options
from kdaug_jax.evaluation.eval_step import Moment
from kdaug_jax.evaluation.metric_table import resolve_metrics
from kdaug_jax.evaluation.run import (
    Evaluation,
    Evaluator,
    check_images,
    evaluate_state,
    make_evaluator,
)
from kdaug_jax.experiment import views
from kdaug_jax.types import Info, TrainState

# What an evaluation of all sets is called beside those of splits.
SETS = "sets"
# Sources that hold each corruption in five severities.
CORRUPTED = ("cifar10c", "cifar100c", "imagenetc")
# Sources whose classes, where they have no names, are counted by the labels that occur: one that
# occurs in no image of a set keeps its logit.
COUNTED = ("arrays", "idx", "parquet", "tar")
# Sources made of the test set of another, in its order.
OF_TEST_SETS = {"cifar10c": "cifar10", "cifar100c": "cifar100"}
# Sources whose folders are a part of ImageNet's classes, by position among the 1,000.
PARTS = {"imageneta": IMAGENET_A, "imagenetr": IMAGENET_R}
# Sources whose folders are ImageNet's classes, by WordNet id or by number.
WHOLE = ("imagenetc", "imagenetv2", "imagenetsketch")
IMAGENET_CLASSES = 1000
# SOURCE,PART: a part of a base split, such as cinic10:DIR,stratified(test[20000:]).
_PART = re.compile(r"(.*?),\s*((?:\w+\()?\w+\[[^\[\]]*\].*)")


class SetData(NamedTuple):
    """One data set of `eval.sets`.

    Attributes:
      name: of its metrics, `eval/<name>/...`.
      group: name in `eval.sets`, which may stand for all corruptions of a source.
      corruption: that it shows, "" for none.
      normalized: whether it is ImageNet-C, of which errors are divided by AlexNet's; other sets
        with its tree, such as Tiny-ImageNet-C, have no such reference.
      source: where it was read from.
      split: its examples.
      classes: position of its classes among the network's; empty where they are the same.
    """

    name: str
    group: str
    corruption: str
    normalized: bool
    source: str
    split: data.Split
    classes: tuple[int, ...]


class EvalSet(NamedTuple):
    """A data set and what evaluates it."""

    data: SetData
    evaluator: Evaluator


def load_sets(
    full: Mapping[str, Any], info: Info, class_names: Sequence[str], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> tuple[SetData, ...]:
    """Opens the data sets of `eval.sets` and matches their classes.

    Args:
      full: the complete config.
      info: facts of the training split.
      class_names: of the training data, by number.
      say: prints a line.
      progress: shows a bar while a data set is indexed.

    Raises:
      UserError: a set cannot be read, or has a class that the training data have not.
    """
    options = read_options(full["data"], say, progress)
    sets: list[SetData] = []
    tests = functools.cache(lambda kind: _test_labels(kind, full["data"]["source"], options))
    for group, text in full["eval"]["sets"]:
        for suffix, corruption, source in _expand(group, text):
            name = group + suffix
            if any(name == other.name for other in sets):
                raise ConfigError("eval.sets", f"'{name}' stands for two sets", "rename one")
            with _of_set(group):
                dataset = _load(source, options)
            split = dataset.splits["test"]
            classes = _classes(group, source, dataset.class_names, class_names)
            if 0 < len(classes) < len(class_names) and all(group != other.group for other in sets):
                say(f"eval.sets '{group}': holds {len(classes):,} of the {len(class_names):,} "
                    "classes, and only their logits count")
            if (test := tests(source.partition(":")[0])) is not None:
                _check_same_labels(source, split, full["data"]["source"], test)
            _check_size(name, full["eval"]["view"], split, info)
            imagenetc = source.startswith("imagenetc:")
            normalized = imagenetc and len(dataset.class_names) == IMAGENET_CLASSES
            sets.append(SetData(name, group, corruption, normalized, source, split, classes))
    return tuple(sets)


def _load(source: str, options: data.ReadOptions) -> data.Dataset:
    """Returns a data set with the split "test": a source's own, or the part that `,PART` names."""
    if match := _PART.fullmatch(source):
        return data.load(match[1], {"test": match[2]}, options)
    return data.load_test(source, options)


def load_other(
    text: str, section: Mapping[str, Any], class_names: Sequence[str], say: Callable[[str], None],
    progress: Callable[[float, str], None] = no_bar,
) -> tuple[str, data.Dataset]:
    """Opens the data that `--eval_data` names.

    Args:
      text: SOURCE,SPLIT; the split may be a part, such as `stratified(test[:50%], shuffle=0)`.
      section: `config.data`, complete, for how images are read.
      class_names: of the run, by number; empty where it stored none.
      say: prints a line.
      progress: shows a bar while a data set is indexed.

    Returns:
      The name of its metrics, of letters, digits and `_`, and a `Dataset` with the split "test".

    Raises:
      UserError: it cannot be read, or its classes are others or in another order.
    """
    match = re.fullmatch(r"(.*),\s*((?:\w+\(.*\)|[^,()]+))", text.strip())
    if match is None or not match[1]:
        raise ConfigError("--eval_data", f"is '{text}'", "--eval_data=SOURCE,SPLIT")
    source, split = match[1].strip(), match[2]
    try:
        dataset = data.load(source, {"test": split}, read_options(section, say, progress))
    except ConfigError as error:
        where = error.where if error.where.startswith("/") else "--eval_data"
        raise ConfigError(where, error.what, error.remedy) from None
    if changed := class_changes(class_names, dataset.class_names):
        raise ConfigError(
            "--eval_data", f"its classes are not those of the run ({changed[0]})",
            "name data with the same classes in the same order",
        )
    return re.sub(r"\W+", "_", text.strip()).strip("_"), dataset


def set_of(
    name: str, source: str, full: Mapping[str, Any], split: data.Split, info: Info
) -> SetData:
    """Returns a split as a data set that is evaluated; its classes are those of the run.

    Raises:
      ConfigError: its images have another size than the run's after `eval.view`.
    """
    _check_size(name, full["eval"]["view"], split, info)
    return SetData(name, name, "", False, source, split, ())


def _test_labels(kind: str, trained: str, options: data.ReadOptions) -> np.ndarray | None:
    """Returns the labels of the test set of which a set is made, None where it is not at hand."""
    if kind not in OF_TEST_SETS or trained.partition(":")[0] != OF_TEST_SETS[kind]:
        return None
    return data.load_test(trained, options).splits["test"].label


def _check_same_labels(source: str, split: data.Split, trained: str, test: np.ndarray) -> None:
    """Validates that a corrupted test set has the labels of that test set, in its order."""
    if np.array_equal(test, split.label):
        return
    what = f"has {len(split):,} examples, and the test split of '{trained}' {len(test):,}"
    if len(test) == len(split):
        row = int(np.argmax(test != split.label))
        what = (
            f"example {row} has label {split.label[row]}, and {test[row]} in the test split of "
            f"'{trained}'"
        )
    raise DataError(source, what, "unpack its archive again")


@contextlib.contextmanager
def _of_set(group: str) -> Iterator[None]:
    """Says which set an error of a source concerns."""
    try:
        yield
    except ConfigError as error:
        if error.where != "data.source":
            raise
        raise ConfigError("eval.sets", f"'{group}': {error.what}", error.remedy) from None


def _expand(group: str, source: str) -> list[tuple[str, str, str]]:
    """Returns (suffix of the name, corruption, source) of one set, or of each corruption."""
    kind, _, argument = source.partition(":")
    if kind not in CORRUPTED:
        return [("", "", source)]
    with _of_set(group):
        path, given = split_argument(kind, argument, ("corruption", "severity"))
    corruption = given.get("corruption", "")
    if "severity" in given:
        return [("", corruption, source)]
    return [
        (f"_{name}_{severity}" if not corruption else f"_{severity}", name,
         f"{kind}:{path}?corruption={name}&severity={severity}")
        for name in ([corruption] if corruption else CORRUPTIONS) for severity in SEVERITIES
    ]


def _classes(
    group: str, source: str, names: Sequence[str], trained: Sequence[str]
) -> tuple[int, ...]:
    """Returns the positions of a set's classes among those of the training data, () for equal."""
    if tuple(names) == tuple(trained):
        return ()
    keys = [class_key(name) for name in trained]
    given = [class_key(name) for name in names]
    if given == keys:
        return ()
    kind = source.partition(":")[0]
    numbers = list(data.numbered(len(keys)))
    if kind in COUNTED and keys == numbers and given == numbers[: len(given)]:
        return ()
    number = {key: position for position, key in enumerate(keys)}
    if set(given) <= set(number) and len(number) == len(keys):
        return tuple(number[key] for key in given)
    if len(keys) == IMAGENET_CLASSES and _in_standard_order(keys, trained):
        wnids = all(is_wordnet_id(key) for key in keys)
        if kind in PARTS and not wnids:
            return PARTS[kind]
        numbered = given == list(data.numbered(len(keys)))
        if kind in WHOLE and len(given) == len(keys) and (numbered or not wnids):
            return ()
    unknown = next(name for name, key in zip(names, given, strict=True) if key not in number)
    raise ConfigError(
        "eval.sets", f"'{group}' has a class '{unknown}', which the training data have not",
        f"their classes are {', '.join(trained[:3])}, ... ({len(trained)})",
    )


def _in_standard_order(names: Sequence[str], full: Sequence[str]) -> bool:
    """Returns whether ImageNet's classes are in the order of their WordNet ids.

    Numbers and ids show it; classes under other names are taken to have that order, unless they are
    sorted, as folders are: "abacus" is not the first of them.

    Args:
      names: see `class_key`.
      full: the whole names.
    """
    if all(is_wordnet_id(name) for name in names):
        return list(names) == sorted(names)
    digits = all(name.isdigit() for name in names)
    if digits:
        return list(names) == list(data.numbered(len(names)))
    return list(full) != sorted(full)


def _set_view(text: str, split: data.Split, info: Info) -> views.ViewSpec:
    """Returns `eval.view` for a set.

    Images of the training data's size go through it as those of the splits do. Others that a crop
    would leave at their size skip it: they were cropped when the set was made.
    """
    if split.size == info.size and not info.mixed:
        return parse_view(text, info)
    mixed = describe_sizes(split) if split.size is None else ""
    info = info._replace(
        size=split.size or info.size, mixed=mixed, host_crops=info.host_crops or bool(mixed)
    )
    view = parse_view(text, info._replace(host_crops=True))
    if view.leading is not None and view.leading.plan.size == split.size:
        return view._replace(calls=view.calls[view.leading.calls :], leading=None)
    return parse_view(text, info)


def _check_size(name: str, text: str, split: data.Split, info: Info) -> None:
    expected = parse_view(text, info).size
    remedy = f"let eval.view begin with resize{expected}, which leaves images of that size alone"
    wanted = f"networks are evaluated on {expected[1]}×{expected[0]}"
    leading, _, _ = views.split_leading(text, "eval.view")
    if split.size is None and leading is None:
        sizes = describe_sizes(split)
        raise ConfigError(
            "eval.sets", f"'{name}' holds images of several sizes ({sizes}), {wanted}", remedy
        )
    size = _set_view(text, split, info).size
    if size != expected:
        raise ConfigError(
            "eval.sets", f"'{name}' holds images of {size[1]}×{size[0]} pixels, {wanted}", remedy
        )


def build_sets(
    full: Mapping[str, Any], evaluator: Evaluator, sets: Sequence[SetData]
) -> tuple[EvalSet, ...]:
    """Makes the evaluators of data sets; those of one size and class list share one.

    Args:
      full: the complete config.
      evaluator: of the run.
      sets: the data sets.

    Raises:
      ConfigError: images of a set cannot be cropped, or do not fit into memory.
    """
    spec, made, built = evaluator.spec, {}, []
    for item in sets:
        key = item.split.size, item.classes
        if key not in made:
            count = len(item.classes) or spec.info.num_classes
            metrics, settings = resolve_metrics(full["eval"], count)
            set_spec = spec._replace(
                view=_set_view(full["eval"]["view"], item.split, spec.info), training_views=(),
                metrics=metrics, settings=settings, human=None, classes=item.classes,
            )
            made[key] = make_evaluator(
                set_spec, evaluator.selections, evaluator.batch_size, evaluator.workers
            )
        check_images(made[key], {f"eval.sets '{item.name}'": item.split})
        built.append(EvalSet(item, made[key]))
    return tuple(built)


def evaluate_sets(
    sets: Sequence[EvalSet],
    state: TrainState,
    frozen: Mapping[str, Any],
    moment: Moment,
    check: Callable[[], None] = lambda: None,
    validation: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluates a training state on further data sets, see `evaluate_state`.

    Returns:
      Values by full name, `eval/<name of the set>/...`, and those of `corruption_errors`.
    """
    numbers, arrays = {}, {}
    for item in sets:
        name, split = item.data.name, item.data.split
        evaluated = evaluate_state(
            item.evaluator, state, frozen, moment, {name: split}, name, check, validation
        )
        numbers |= evaluated.numbers
        arrays |= evaluated.arrays
    return Evaluation({**numbers, **corruption_errors(sets, numbers)}, arrays)


def evaluate_use(
    evaluator: Evaluator, sets: Sequence[EvalSet], state: TrainState, frozen: Mapping[str, Any],
    moment: Moment, splits: Mapping[str, data.Split], use: str,
    check: Callable[[], None] = lambda: None, validation: Mapping[str, float] | None = None,
) -> Evaluation:
    """Evaluates a training state on a split, or on all further data sets where `use` is `SETS`.

    Args are those of `evaluate_state` and `evaluate_sets`.
    """
    if use == SETS:
        return evaluate_sets(sets, state, frozen, moment, check, validation)
    return evaluate_state(evaluator, state, frozen, moment, splits, use, check, validation)


def corruption_errors(
    sets: Sequence[EvalSet], numbers: Mapping[str, float]
) -> dict[str, float]:
    """Returns the mean errors of groups that hold all fifteen corruptions.

    Args:
      sets: the data sets.
      numbers: metrics by full name, the accuracies of the sets among them.

    Returns:
      `eval/<group>/mean_error`, 0..1: the error averaged over five severities, then over the
      corruptions; for ImageNet-C instead `eval/<group>/mean_corruption_error`, with the error of
      each corruption divided by AlexNet's.

    Source: Hendrycks and Dietterich 2019 (arXiv:1903.12261), section 4.
    """
    result = {}
    for group in dict.fromkeys(item.data.group for item in sets):
        members = [item.data for item in sets if item.data.group == group]
        kind = members[0].source.partition(":")[0]
        if kind not in CORRUPTED or {member.corruption for member in members} != set(CORRUPTIONS):
            continue
        if any(f"eval/{member.name}/accuracy" not in numbers for member in members):
            continue  # it is not among `eval.metrics`
        errors = []
        for corruption in CORRUPTIONS:
            error = np.mean([
                1 - numbers[f"eval/{member.name}/accuracy"]
                for member in members if member.corruption == corruption
            ])
            normalized = members[0].normalized
            errors.append(error / (ALEXNET_ERRORS[corruption] / 100) if normalized else error)
        name = "mean_corruption_error" if normalized else "mean_error"
        result[f"eval/{group}/{name}"] = float(np.mean(errors))
    return result
