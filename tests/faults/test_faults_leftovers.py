"""What refused and killed runs leave behind, and what an evaluation keeps."""

import errno
import json
import os
import shutil
import subprocess
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from kdaug_jax.errors import CheckpointError, ConfigError
from kdaug_jax.runtime import checkpoint, compile_cache, lock, manifest, model_card
from tests.bad_input.helpers import TWICE, one_line, results


@pytest.mark.parametrize("sections, words, status", [
    (dict(data=dict(source="folder:/nowhere")), [], 3),
    ({}, ["--config.networks.student.name=unknown"], 2),
    ({}, ["--config.train.epochs=0.2", "--config.data.batch_size=7"], 2),
    (dict(data=dict(source="folder:/nowhere")), ["--mode=preview"], 3),
], ids=["data", "network", "devices", "preview"])
def test_a_refused_run_leaves_no_folder(tiny, tmp_path, capsys, sections, words, status):
    directory = tmp_path / "new" / "runs" / "w"
    assert tiny(sections, *words, directory=directory) == status
    one_line(capsys.readouterr().err)
    assert not (tmp_path / "new").exists()
    # A folder of the user's stays, without a trace.
    directory.mkdir(parents=True)
    assert tiny(sections, *words, directory=directory) == status
    assert not list(directory.iterdir())


def test_two_runs_never_hold_one_lock(tmp_path):
    """Although a run that is refused takes the file of the lock away with it."""
    with pytest.raises(ConfigError, match="in use"), lock.locked(tmp_path):
        stale = open(tmp_path / "lock", "a+")  # as another process has it open
        with lock.locked(tmp_path):
            pass
    with stale:
        assert not (tmp_path / "lock").exists()
        with lock.locked(tmp_path):
            assert not os.path.samestat(os.fstat(stale.fileno()), os.stat(tmp_path / "lock"))


def test_parts_of_killed_runs_go_once_the_lock_is_held(tiny, finished):
    """Unfinished checkpoints and halves of files; those of others stay."""
    saved = finished / "checkpoints"
    for name in ("7.unfinished", "7.unfinished1"):
        shutil.copytree(saved / "5", saved / name)
    for step in ("5", "10"):
        (saved / step / manifest.MANIFEST).unlink()  # killed before it was written
    for name in ("results.npz.partial", "config.json.partial", "mine.partial"):
        (finished / name).write_text("{")
    for name in ("results.json", "results.npz"):
        (finished / name).unlink(missing_ok=True)
    assert tiny(TWICE) == 0  # it starts over
    assert sorted(path.name for path in saved.iterdir()) == ["10", "5"]
    assert [path.name for path in finished.glob("*.partial")] == ["mine.partial"]


@pytest.mark.parametrize("name", [
    "lock", "metrics.jsonl", "config.json", "results.json", "classes.json", "evaluations.json",
])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_among_those_of_a_run(tiny, finished, capsys, name, make):
    """It is named in one line, and neither waited for nor read without end."""
    (finished / name).unlink(missing_ok=True)
    make(finished / name)
    assert tiny(TWICE, directory=finished) in (2, 4)
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and name in said


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard", "evaluations"])
@pytest.mark.parametrize("make", [
    os.mkfifo, lambda path: path.touch(), lambda path: path.symlink_to("nowhere"),
])
def test_what_is_no_folder_among_those_of_a_run(tiny, finished, capsys, name, make):
    shutil.rmtree(finished / name, ignore_errors=True)
    make(finished / name)
    assert tiny(TWICE, directory=finished) == 2
    said = one_line(capsys.readouterr().err)
    assert f"{finished / name}: is " in said and "move it away, or name another folder" in said


@pytest.mark.parametrize("mode", ["train", "preview", "evaluate", "export"])
@pytest.mark.parametrize("place", ["file", "file/below", "link", "pipe"])
def test_a_working_directory_that_is_no_folder(tiny, tmp_path, capsys, mode, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert tiny({}, f"--mode={mode}", directory=tmp_path / place) == 2
    said = one_line(capsys.readouterr().err)
    first = place.split("/")[0]
    if (mode, place) in (("evaluate", "file/below"), ("export", "file/below")):
        assert "holds no run; train it first" in said
    else:
        assert f"{tmp_path / first}: is " in said and "or name another folder" in said


@pytest.mark.parametrize("mode", ["train", "preview"])
@pytest.mark.parametrize("place", ["w@best", "w@1200/below"])
def test_states_of_runs_are_no_folders(tiny, tmp_path, capsys, mode, place):
    assert tiny({}, f"--mode={mode}", directory=tmp_path / place) == 2
    said = one_line(capsys.readouterr().err)
    first = tmp_path / place.split("/")[0]
    assert f"{first} names a state of a run, not a folder to write to; name the folder" in said
    assert f"alone, {tmp_path / 'w'}; a teacher is named networks.teacher.check" in said
    assert not any(path.name.startswith("w") for path in tmp_path.iterdir())


def test_a_state_that_is_evaluated_is_that_of_its_folder(tiny, tmp_path, capsys):
    assert tiny({}, "--mode=evaluate", directory=tmp_path / "w@best") == 2
    said = one_line(capsys.readouterr().err)
    assert f"name its folder alone, {tmp_path / 'w'}, whose newest checkpoint is taken" in said


def test_fields_that_change_no_result_may_change(tiny, finished, capsys):
    before = results(finished)
    words = ["--config.log.every_steps=1", "--config.checkpoint.keep=3",
             "--config.checkpoint.retry_minutes=0"]
    assert tiny(TWICE, *words) == 0
    assert results(finished) == before
    assert tiny(TWICE, "--config.optim.schedule.base=0.5") == 2
    assert "optim.schedule.base" in one_line(capsys.readouterr().err)


def test_evaluate_keeps_what_it_computes(tiny, finished, capsys):
    metrics = "--config.eval.metrics=('accuracy','nll','confusion')"
    assert tiny(TWICE, "--mode=evaluate", metrics) == 0
    folder = finished / "evaluations"
    assert f"kept in {folder} as 10-validation, 10-test" in capsys.readouterr().out
    assert sorted(path.name for path in folder.iterdir()) == [
        "10-test.json", "10-test.npz", "10-validation.json", "10-validation.npz",
    ]
    kept = {use: json.loads((folder / f"10-{use}.json").read_text()) for use in (
        "validation", "test"
    )}
    assert {**kept["validation"]["results"][""], **kept["test"]["results"][""]}.items() >= (
        results(finished)[""].items()
    )
    assert (kept["test"]["step"], kept["test"]["name"]) == (10, "test")
    assert kept["test"]["data"]["examples"] == 10
    with np.load(folder / "10-test.npz") as stored:
        assert stored["0/eval/test/confusion"].sum() == 10
        assert list(stored["members"]) == [""]
    # Other data under their own name; the run goes on in its directory as before.
    other = "--eval_data=synthetic:8x8,4,24,train"
    assert tiny(TWICE, "--mode=evaluate", other) == 0
    assert (folder / "10-synthetic_8x8_4_24_train.json").exists()
    assert tiny(TWICE) == 0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A compile cache of its own."""
    known = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # to be put back
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        compile_cache.use(tmp_path)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        compilation_cache.reset_cache()
        yield tmp_path
    compile_cache.use(known)
    compilation_cache.reset_cache()


@pytest.mark.parametrize("damage", [
    lambda content: content[: len(content) // 2], lambda content: b"",
    lambda content: content[:80] + bytes([content[80] ^ 1]) + content[81:],
], ids=["half", "empty", "flip"])
def test_a_damaged_entry_of_the_compile_cache_is_replaced(cache, damage, capsys):
    def doubled(x):
        return x + x

    for _ in range(2):
        jax.clear_caches()
        jax.jit(doubled).lower(jnp.ones(3)).compile()
        (entry,) = cache.glob("jit_doubled-*-cache")
        assert zlib.decompress(entry.read_bytes())
        entry.write_bytes(damage(entry.read_bytes()))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("make", [
    os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path), lambda path: path.symlink_to("nowhere"),
])
def test_what_is_no_file_in_the_compile_cache_is_removed(cache, make, capsys):
    """JAX would wait for a pipe, and read a device without end."""
    def tripled(x):
        return x + x + x

    jax.jit(tripled).lower(jnp.ones(3)).compile()
    (entry,) = cache.glob("jit_tripled-*-cache")
    entry.unlink()
    make(entry)
    other = cache / "mine"
    os.mkfifo(other)
    compile_cache.use(cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.clear_caches()
    jax.jit(tripled).lower(jnp.ones(3)).compile()
    assert zlib.decompress(entry.read_bytes()) and other.exists()
    assert capsys.readouterr().err == ""


def test_an_entry_that_cannot_be_removed_is_no_matter(cache, capsys):
    (cache / "jit_x-1-cache").mkdir()
    (cache / "jit_x-1-cache" / "mine").touch()
    warnings.showwarning(
        "Error reading persistent compilation cache entry for 'jit_x'", UserWarning, "x", 1
    )
    assert (cache / "jit_x-1-cache" / "mine").exists() and capsys.readouterr().err == ""


def test_a_save_leaves_nothing_where_its_directory_was(tmp_path, monkeypatch):
    """So that the directory can be moved back."""
    def moving(*args, **kwargs):
        (tmp_path / "w").rename(tmp_path / "moved")
        (tmp_path / "w" / "checkpoints" / "2.orbax-checkpoint-tmp").mkdir(parents=True)
        (tmp_path / "w" / "checkpoints" / "2.orbax-checkpoint-tmp" / "state").touch()
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    (tmp_path / "w").mkdir()
    with pytest.raises(CheckpointError, match="could not be saved"):
        with checkpoint.Checkpoints(tmp_path / "w" / "checkpoints", keep=2, say=print) as saves:
            saves.save(1, {"a": np.zeros(4)}, {}, {})
            saves.wait()
            monkeypatch.setattr(checkpoint.ocp.training.Checkpointer, "save", moving)
            saves.save(2, {"a": np.zeros(4)}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]
    # Of others nothing is removed.
    monkeypatch.undo()
    (tmp_path / "moved").rename(tmp_path / "w")
    with checkpoint.Checkpoints(tmp_path / "w" / "checkpoints", keep=2, say=print):
        (tmp_path / "w").rename(tmp_path / "moved")
        (tmp_path / "w" / "checkpoints" / "1").mkdir(parents=True)
        (tmp_path / "w" / "mine").touch()
    assert (tmp_path / "w" / "checkpoints" / "1").exists()


def test_a_mark_is_not_to_be_deleted(tiny, finished, capsys):
    (finished / "kdaug_jax.json").write_text("{")
    assert tiny(TWICE, directory=finished) == 2
    assert one_line(capsys.readouterr().err).endswith("; restore it from a copy\n")


@pytest.mark.parametrize("moment", ["filled", "between"])
def test_a_directory_that_a_kill_took_while_it_was_replaced_comes_back(tmp_path, moment):
    place = tmp_path / "export"
    with model_card.made_whole(place) as partial:
        (partial / "card").write_text("first")
    gone = subprocess.Popen(["true"])  # a process that is no more
    gone.wait()
    (tmp_path / f".export.{gone.pid}.partial").mkdir()
    if moment == "between":
        place.rename(tmp_path / f".export.{gone.pid}.old")
    with pytest.raises(KeyError), model_card.made_whole(place, replace="card"):
        raise KeyError
    assert (place / "card").read_text() == "first"
    with model_card.made_whole(place, replace="card") as partial:
        (partial / "card").write_text("second")
    assert (place / "card").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
