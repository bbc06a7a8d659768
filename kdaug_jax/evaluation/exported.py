"""Arrays of a row for each example, such as embeddings: gathered by batches, written, never summed.

The evaluation that ends a run and `--mode=evaluate` write them, one batch of one network in memory
at a time, in one further pass over the split for each array.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from kdaug_jax.data import Split
from kdaug_jax.evaluation.eval_step import EvalSpec, everywhere, make_view, run_networks
from kdaug_jax.evaluation.metric_table import MetricInputs
from kdaug_jax.evaluation.predictors import Predictor
from kdaug_jax.evaluation.run import Evaluator, batch_rows, batches_of
from kdaug_jax.runtime import sharding, workdir
from kdaug_jax.runtime.workdir import Streamed
from kdaug_jax.types import Batch

# Where everything that is evaluated goes, as `<step>-<split or set>.json` and `.npz`.
FOLDER = "evaluations"
# Longer names of sets are cut, and told apart by their digest.
LONGEST = 120
# Arrays that identify the rows of the others.
INDEX, LABELS = "index", "labels"

_ROWS, _MASK = "rows", "mask"


class Evaluated(NamedTuple):
    """A split whose rows are written.

    Attributes:
      use: "validation", "test" or the name of a set.
      evaluator: of it.
      split: its examples.
    """

    use: str
    evaluator: Evaluator
    split: Split


def file_of(directory: Path, step: int, use: str, suffix: str) -> Path:
    """Returns the path of what was evaluated.

    Args:
      directory: the working directory of the run.
      step: of the checkpoint.
      use: "validation", "test" or the name of a set.
      suffix: ".json" or ".npz".
    """
    short = use if len(use) <= LONGEST else (
        f"{use[:LONGEST]}-{hashlib.sha256(use.encode()).hexdigest()[:8]}"
    )
    return directory / FOLDER / f"{step}-{short}{suffix}"


def keep(
    directory: Path, step: int, evaluated: Sequence[Evaluated],
    variables: Mapping[int, Callable[[], Mapping[str, Any]]], members: Sequence[str],
    check: Callable[[], None], arrays: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> list[str]:
    """Writes `evaluations/<step>-<split or set>.npz`: rows of all examples, and given arrays.

    Every process takes part; the first one writes all rows, which it gets from the devices.

    Args:
      directory: the working directory of the run.
      step: of the checkpoint.
      evaluated: what is evaluated.
      variables: by number of the member, what gives the variables of its networks.
      members: names of all members by number.
      check: called before each batch; may raise to end the evaluation.
      arrays: further arrays by use and name.

    Returns:
      Names of the files that were written.
    """
    written = []
    for item in evaluated:
        streamed = _streamed(item, variables, len(members) > 1, check)
        given = (arrays or {}).get(item.use, {})
        file = file_of(directory, step, item.use, ".npz")
        if jax.process_index() == 0:
            with workdir.writing(directory):
                file.parent.mkdir(exist_ok=True)
                workdir.write_arrays(file, given, members, streamed)
        else:
            for array in streamed:
                for _ in array.parts:
                    pass
        written += [file.name] * bool(given or streamed)
    return written


def _streamed(
    item: Evaluated, variables: Mapping[int, Callable[[], Mapping[str, Any]]], several: bool,
    check: Callable[[], None],
) -> list[Streamed]:
    """Returns the arrays of a split: those of rows, then whose rows they are."""
    spec, split = item.evaluator.spec, item.split
    count = len(split)
    if spec.batch_statistics:  # a batch that is not full is left out of every metric
        count -= count % batch_rows(item.evaluator, split)
    identities: dict[str, list[np.ndarray]] = {LABELS: [], INDEX: []}

    def parts(load: Callable[[], Mapping[str, Any]], predictor: Predictor, name: str, row: str):
        for known in identities.values():  # the same in every pass
            known.clear()
        for batch in _batches(item, load(), predictor, name, row, check):
            for key, known in identities.items():
                known.append(batch[key])
            yield batch[_ROWS]

    arrays = [
        Streamed(
            "/".join(filter(None, (str(number) if several else "", predictor.name, row))), count,
            parts(load, predictor, name, row),
        )
        for number, load in variables.items()
        for predictor in spec.predictors if not predictor.term
        for name, metric in spec.metrics.items()
        for row in metric.rows
    ]
    if arrays:  # written last, when they are known
        arrays += [Streamed(key, count, iter(known)) for key, known in identities.items()]
    return arrays


def _batches(
    item: Evaluated, variables: Mapping[str, Any], predictor: Predictor, name: str, row: str,
    check: Callable[[], None],
) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows of each batch that count, with their labels and index."""
    metric = item.evaluator.spec.metrics[name]
    spec = item.evaluator.spec._replace(
        predictors=(predictor,), metrics={name: metric}, training_views=()
    )
    evaluator = item.evaluator._replace(spec=spec)
    step = _make_step(spec, predictor, metric.rows[row])
    variables = {network: variables[network] for network, _ in predictor.members}
    with contextlib.closing(batches_of(evaluator, item.split)) as batches:
        for number, batch in enumerate(batches):
            check()
            placed = sharding.put_batch(spec.mesh, batch)
            arrays = jax.device_get(sharding.settle(step(variables, placed, np.int32(number))))
            counted = arrays.pop(_MASK)
            if counted.any():
                yield {key: array[counted] for key, array in arrays.items()}


def _make_step(
    spec: EvalSpec, predictor: Predictor, row: Callable[[MetricInputs], jax.Array]
) -> Callable[..., dict[str, jax.Array]]:
    """Makes the jitted function that computes the rows of one batch, whole on every device."""

    def rows_of_batch(variables, batch: Batch, number):
        view = make_view(spec, batch, number)
        outputs = run_networks(spec, variables, view, predictor.members, None)
        outputs, index = everywhere(spec.mesh, (outputs, batch.index))
        member = predictor.members[0]
        inputs = MetricInputs(
            outputs.logits[member], outputs.label, outputs.mask,
            embedding=outputs.embedding.get(member),
        )
        return {_ROWS: row(inputs), LABELS: inputs.label, INDEX: index, _MASK: inputs.mask}

    replicated = sharding.replicated(spec.mesh)
    return jax.jit(sharding.within(spec.mesh, rows_of_batch), out_shardings=replicated)
