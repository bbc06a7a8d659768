"""Checkpoints: saved asynchronously, verified, restored from the newest that is undamaged.

The only file that imports Orbax.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from kdaug_jax.errors import CheckpointError
from kdaug_jax.files import read_json
from kdaug_jax.runtime import manifest, processes
from kdaug_jax.runtime.orbax_logging import silence_orbax
from kdaug_jax.runtime.platform import platform_of
from kdaug_jax.runtime.retries import Retries
from kdaug_jax.runtime.workdir import DISK, FULL, require_in_place, write_whole, writing

STATE = "state"
# Where Orbax keeps the metrics of a step, below its directory.
METRICS = "metrics/metrics"
# Metric of a checkpoint whose state evaluated to finite numbers: its step.
FINITE = "finite"
# Beside the value of `best`: 1 where its lowest value is the best, else 0.
LOWEST = "lowest"


def _abstract(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


def _reason(error: BaseException) -> str:
    """Returns the cause of an error of TensorStore in a few words."""
    text = str(error).strip()
    reasons = [os.strerror(number) for number in DISK if os.strerror(number) in text]
    return (reasons or text.splitlines() or [type(error).__name__])[0][:200]


class Checkpoints:
    """The checkpoints of one run, saved in the background; use it as a context manager."""

    def __init__(
        self, directory: Path, *, keep: int, say: Callable[[str], None], best: str = "",
        lowest: bool = False, saved: Callable[[], None] = lambda: None, retry_minutes: float = 0.0,
    ):
        """Opens a directory, which is made where it is absent; nobody else has it open.

        Args:
          directory: absolute path.
          keep: how many of the newest to keep; with less than 2 there is none to fall back on
            while the newest is committed but not verified.
          say: prints a line about each damaged checkpoint.
          best: metric whose best checkpoint is kept too, such as "eval/validation/accuracy";
            empty for none.
          lowest: whether its lowest value is the best.
          saved: called in process 0, in a thread, once a checkpoint is on disk and verified.
          retry_minutes: how long saves may fail before one raises. Several processes, which would
            have to agree on it, do not wait.
        """
        if directory.exists() and not directory.is_dir():
            raise CheckpointError(str(directory), "is not a directory", "move it away")
        self.directory = directory
        self._say, self._saved = say, saved
        self._failure: CheckpointError | None = None
        self._retries = Retries(
            say, retry_minutes if jax.process_count() == 1 else 0.0,
            "saving is tried again with each row of the log",
        )
        self._broken = False
        self._step: int | None = None  # that was saved last, or was to be
        self._thread: threading.Thread | None = None
        processes.on_first(lambda: manifest.clear_unfinished(directory))
        # Steps that cannot be restored must not count among those that are kept.
        self.latest = processes.on_first(lambda: manifest.newest(directory, say, set_aside=True))
        self._keep, self._best, self._lowest = keep, best, lowest
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._status = os.stat(directory)
        self._checkpointer = self._opened()

    def _opened(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(self._keep), policies.BestN(
            get_metric_fn=lambda metrics: metrics.get(FINITE, -math.inf), n=1,
            keep_checkpoints_without_metrics=False,
        )]
        if best := self._best:
            sign = -1.0 if self._lowest else 1.0
            kept.append(
                policies.BestN(
                    get_metric_fn=lambda metrics: sign * metrics.get(best, -sign * math.inf),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        context = ocp.Context()
        # Otherwise who writes waits five minutes for directories that cannot be made.
        context.asynchronous.create_directories_asynchronously = False
        return ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> Checkpoints:
        silence_orbax()  # `wait` reports what could not be saved
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            self.wait(quiet=error[0] is not None)
        finally:
            try:
                self._checkpointer.close()
            except Exception:
                # Orbax raises here again that a save failed.
                if error[0] is None and not self._broken:
                    raise
            finally:
                with contextlib.suppress(OSError):
                    self._leave_no_trace()

    def _leave_no_trace(self) -> None:
        """Removes what a save has made where its directory was, before somebody moved that.

        Otherwise it could not be moved back. Only if nothing else lies there.
        """
        place = self.directory
        if self._step is None or os.path.samestat(os.stat(place), self._status):
            return
        made = [path for path in place.iterdir() if path.name.split(".")[0] == str(self._step)]
        if len(made) == len(list(place.iterdir())) and list(place.parent.iterdir()) == [place]:
            shutil.rmtree(place)
            place.parent.rmdir()

    def save(
        self, step: int, state: Any, metrics: Mapping[str, float], notes: Mapping[str, Any],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Saves a state; returns as soon as it is copied from the devices.

        Args:
          step: optimiser steps taken; a step that is already there is left as it is.
          state: a tree of arrays.
          metrics: values by name, for choosing the best checkpoint and the last that evaluated to
            finite numbers, see `FINITE`; both are kept.
          notes: JSON values stored beside it.
          before: called ahead of the write, in its thread.

        Raises:
          CheckpointError: saves have failed for too long, see `failing`, or the directory was
            moved.
        """
        self._join()
        self.failing()
        if step == self.latest:
            return
        require_in_place(self.directory, self._status)
        self._step = step
        write = self._prepared(
            step, state, metrics=self._chosen(metrics) or None, custom_metadata=dict(notes)
        )
        self._thread = threading.Thread(target=self._write, args=(step, before, write))
        self._thread.start()

    def _chosen(self, metrics: Mapping[str, float]) -> dict[str, float]:
        chosen = {
            name: float(metrics[name]) for name in (self._best, FINITE)
            if math.isfinite(metrics.get(name, math.nan))
        }
        return {**chosen, LOWEST: float(self._lowest)} if self._best in chosen else chosen

    def has_metrics(self, step: int) -> bool:
        """Returns whether a step that is whole was saved after its evaluation, in process 0."""
        return manifest.lists(self.directory / str(step), METRICS)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds metrics to a step that was saved before its evaluation; see `save`."""
        self._join()
        chosen, place = self._chosen(metrics), self.directory / str(step)

        def add() -> None:
            if chosen and not manifest.verify(place) and not self.has_metrics(step):
                (place / METRICS).parent.mkdir(exist_ok=True)
                # Until the manifest lists the file, the step is whole without it.
                write_whole(place / METRICS, json.dumps(chosen))
                manifest.write(place)

        with writing(self.directory):
            processes.on_first(add)
        self._checkpointer.reload()

    def _prepared(self, step: int, state: Any, **options: Any) -> Callable[[], Any]:
        """Copies a state from the devices; returns the rest of the save, for a thread to run."""
        options |= {"checkpointable_name": STATE, "force": True}
        if jax.process_count() == 1:
            # Before Orbax starts its own thread it takes longer than many a step, so a thread does
            # the whole save.
            copied = jax.tree.map(_copied, state)

            def write() -> None:
                if self._broken:
                    self._open_again(step)
                host = jax.tree.map(np.asarray, jax.device_get(copied))
                self._checkpointer.save(step, host, **options)

            return write
        # Orbax runs collectives over several processes, which must start in the same order as all
        # other collectives.
        try:
            return self._checkpointer.save_async(step, state, **options).result
        except Exception as error:
            raise self._error(step, error) from error

    def _open_again(self, step: int) -> None:
        """Removes what a failed save has left, in Orbax and on the disk."""
        with contextlib.suppress(Exception):  # it raises once more what failed
            self._checkpointer.close()
        if (place := self.directory / str(step)).is_dir():  # it was not verified
            shutil.rmtree(place)
        self._checkpointer = self._opened()
        self._broken = False

    def _write(
        self, step: int, before: Callable[[], None], write: Callable[[], Any]
    ) -> None:
        try:
            before()
            write()
            if jax.process_index() == 0:
                manifest.write(self.directory / str(step))
                manifest.clear_unfinished(self.directory)  # the run is beyond them
                self._saved()
            self.latest, self._failure = step, None
        except BaseException as error:  # handed to the main thread by `wait`
            self._failure = self._error(step, error)

    def _error(self, step: int, error: BaseException) -> CheckpointError:
        self._broken = True
        whole = "none is whole yet" if self.latest is None else (
            f"step {self.latest} is the newest that is whole"
        )
        reason = _reason(error)
        mend = "make room" if reason in map(os.strerror, FULL) else "mend that"
        return CheckpointError(
            str(self.directory), f"step {step} could not be saved ({reason})",
            f"{mend} and run again; {whole}",
        )

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def failing(self) -> bool:
        """Returns whether the last save failed; tells so once, and when saves work again.

        Does not wait for a save that is under way.

        Raises:
          CheckpointError: saves have failed for longer than they may.
        """
        if self._thread is None or not self._thread.is_alive():
            self._join()
            if self._failure is None:
                self._retries.worked(f"step {self.latest} is saved: saving works again")
            elif self._retries.failed(self._failure):
                self.wait()
        return self._retries.failing

    def wait(self, quiet: bool = False) -> None:
        """Waits until the last save is on disk and verified.

        Args:
          quiet: print a failure instead of raising it, because another error is being raised.

        Raises:
          CheckpointError: the save failed.
        """
        self._join()
        failure, self._failure = self._failure, None
        if failure is not None and quiet:
            self._say(f"error: {failure}")
        elif failure is not None:
            raise failure

    def last(self) -> int | None:
        """Waits for the save under way; returns the newest step that is whole."""
        self._join()
        return self.latest

    def set_aside(self, step: int, kind: str) -> None:
        """Renames a step to `<step>.<kind>`, so that the one before it is the newest."""
        self._join()
        processes.on_first(lambda: manifest.set_aside_step(self.directory / str(step), kind))
        self.latest = processes.on_first(
            lambda: manifest.newest(self.directory, self._say, set_aside=False)
        )

    def notes(self) -> dict[str, Any]:
        """Returns the notes beside the newest step that verifies, `{}` when there is none."""
        self._join()
        return {} if self.latest is None else read_notes(self.directory / str(self.latest))

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest step that verifies.

        Args:
          like: a tree of arrays of the expected shapes, dtypes and shardings; the device count may
            differ from that of the run that saved.

        Returns:
          The state and the notes stored beside it, or None when there is no checkpoint.

        Raises:
          CheckpointError: the stored tree does not fit `like`.
        """
        self._join()
        return None if self.latest is None else load(self.directory / str(self.latest), like)


def _copied(leaf: Any) -> Any:
    """Copies an array so that the steps to come may take its memory.

    An array of an accelerator is copied there, which nobody waits for; a thread fetches the copy
    while training goes on. Arrays of CPU devices share memory with NumPy's.
    """
    if isinstance(leaf, jax.Array) and platform_of(leaf) != "cpu":
        return leaf.copy()
    return np.array(leaf)


def write_once(directory: Path, tree: Any) -> None:
    """Writes one tree as step 0, verified, for others to read with `load_subtree`.

    Args:
      directory: where no checkpoints are yet; absolute.
      tree: nested dicts of arrays.

    Raises:
      CheckpointError: it could not be written.
    """
    with Checkpoints(directory, keep=2, say=lambda line: None) as checkpoints:
        checkpoints.save(0, jax.device_get(tree), {}, {})
        checkpoints.wait()


def load(step_dir: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    """Loads a verified step.

    Args:
      step_dir: `<checkpoints>/<step>`.
      like: see `Checkpoints.restore`.

    Returns:
      The state and the notes stored beside it.

    Raises:
      CheckpointError: the stored tree does not fit `like`.
    """
    compare(step_dir, like)
    state = ocp.load(step_dir, _abstract(like), checkpointable_name=STATE)
    return state, read_notes(step_dir)


def read_notes(step_dir: Path) -> dict[str, Any]:
    """Returns the notes that were stored beside a step.

    Args:
      step_dir: `<checkpoints>/<step>`.
    """
    return dict(ocp.metadata(step_dir, checkpointable_name=STATE).custom_metadata or {})


def compare(step_dir: Path, like: Any) -> None:
    """Validates a stored tree against the expected one, since Orbax casts dtypes silently.

    Raises:
      CheckpointError: naming the first ten paths that are missing, not expected or of another
        shape or dtype.
    """
    stored = _facts(ocp.metadata(step_dir, checkpointable_name=STATE).metadata)
    expected = _facts(like)
    lines = [
        f"{path} is {stored[path]}, not {fact}"
        for path, fact in expected.items()
        if path in stored and stored[path] != fact
    ]
    lines += [f"{path} is missing" for path in expected if path not in stored]
    lines += [f"{path} is not expected" for path in stored if path not in expected]
    if lines:
        raise CheckpointError(
            str(step_dir), "holds another state: " + ", ".join(lines[:10]),
            "resume with the config it was made with",
        )


def _facts(tree: Any) -> dict[str, str]:
    leaves, _ = jax.tree.flatten_with_path(tree)
    facts = {}
    for path, leaf in leaves:
        name = "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))
                        for key in path)
        facts[name] = f"{leaf.dtype}{list(leaf.shape)}"
    return facts


def best_step(directory: Path, metric: str) -> int | None:
    """Returns the step with the best value of a metric among those that are kept.

    Args:
      directory: `<workdir>/checkpoints`.
      metric: what `checkpoint.best` names; empty for none.

    Returns:
      The step; None where no checkpoint is stored with such a value.
    """
    values = {}
    for step in manifest.steps(directory):
        if not manifest.is_whole_file(directory / str(step), METRICS):
            continue
        try:
            stored = read_json(directory / str(step) / METRICS)
            values[step] = float(stored[metric]) * (-1.0 if stored[LOWEST] else 1.0)
        except (OSError, ValueError, TypeError, KeyError):
            continue  # it was saved between two evaluations
    # Of equally good ones the newest, as Orbax keeps them.
    return max(values, key=lambda step: (values[step], step), default=None)


def load_subtree(
    directory: Path, path: tuple[str, ...], say: Callable[[str], None], step: int | None = None
) -> Any:
    """Loads part of a whole checkpoint as NumPy arrays, for use as a teacher.

    Args:
      directory: `<workdir>/checkpoints`.
      path: keys from the root of the stored tree.
      say: prints a line about each damaged checkpoint.
      step: which one, verified by the caller; by default the newest that is whole.

    Returns:
      The nested dicts below `path`.

    Raises:
      CheckpointError: no checkpoint is there or whole, or it has no such part.
    """
    if step is None:
        step = processes.on_first(lambda: manifest.newest(directory, say, set_aside=False))
    if step is None:
        raise CheckpointError(str(directory), "holds no checkpoint", "train that network first")
    step_dir = directory / str(step)
    tree = ocp.metadata(step_dir, checkpointable_name=STATE).metadata
    for key in path:
        if not isinstance(tree, Mapping) or key not in tree:
            raise CheckpointError(
                str(step_dir), f"has no {'/'.join(path)}", "name the directory of a teacher"
            )
        tree = tree[key]
    # Arrays of NumPy are read into the memory of the host: a device may be too small for them.
    tree = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
    for key in reversed(path):
        tree = {key: tree}
    context = ocp.Context()
    context.pytree_options.loading.partial_load = True
    with context:
        loaded = ocp.load(step_dir, tree, checkpointable_name=STATE)
    for key in path:
        loaded = loaded[key]
    return loaded
