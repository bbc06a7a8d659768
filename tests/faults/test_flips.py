"""Flipped bits of every file that is read again: refused, told, or without any effect."""

import io
import json
import random
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.index import kept_path
from kdaug_jax.errors import UserError
from kdaug_jax.experiment.frozen import tables
from kdaug_jax.experiment.frozen.chosen import choose
from kdaug_jax.experiment.frozen.places import Place
from kdaug_jax.runtime import checkpoint, manifest, mark, model_card, records, workdir, writer
from kdaug_jax.runtime.digest import sha256_arrays
from kdaug_jax.training import loop
from tests.conftest import tiny_config

RATE = "optim.schedule.base"
SECTIONS = dict(
    population=((RATE, (0.1, 0.2)),),
    checkpoint=dict(every_steps=5, every_epochs=0.0, best="eval/validation/accuracy"),
)
FILES = ("config.json", "classes.json", "environment.json", "results.json", "metrics.jsonl",
         workdir.MARK)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trained")
    loop.train(tiny_config(**SECTIONS), directory, stream=io.StringIO())
    return directory


def flipped(path, seed, count=1):
    """Flips bits of a file, one after another; yields the place of each and mends it after."""
    generator, whole = random.Random(f"{seed} {path.name}"), path.read_bytes()
    for _ in range(count):
        place = generator.randrange(8 * len(whole))
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        yield f"bit {place} of {path}"
    path.write_bytes(whole)


def outcome(run):
    """What is read of a run before it goes on, or by those who use it; and the lines said."""
    said = []
    mark.check(run)
    _, record = records.read_run(run)
    names = records.class_names(run, record)
    facts = records.read_network("--from", str(run))
    checkpoints = run / "checkpoints"
    newest = manifest.newest(checkpoints, said.append, set_aside=False)
    states = checkpoint.load_subtree(checkpoints, (), said.append, newest)
    # Which step is the best is advice, and left out where a step of it is damaged.
    chosen = choose("--from", run, Place(str(run), member="0"), facts)._replace(best=-1)
    kept = (
        record, names, records.read_results(run), records.environment_change(run), facts, newest,
        sha256_arrays({str(n): np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(states))}),
        checkpoint.read_notes(checkpoints / str(newest)), chosen, writer.read_rows(run),
    )
    return json.dumps(kept, sort_keys=True, default=str), said


def check(read, clean, places):
    """Asserts that each damage is refused in one line, told, or changes nothing; counts those."""
    counts = {"refused": 0, "told": 0, "no effect": 0}
    for place in places:
        try:
            found_now, said = read()
        except UserError as error:
            assert "\n" not in str(error), (place, error)
            counts["refused"] += 1
            continue
        told = any("is passed over" in line for line in said)
        assert told or found_now == clean, place
        counts["told" if told else "no effect"] += 1
    return counts


def check_run(run, seed, of_json, of_checkpoint):
    clean, said = outcome(run)
    assert not said
    total = {}
    for name in FILES:
        counts = check(lambda: outcome(run), clean, flipped(run / name, seed, of_json))
        total[name] = counts
    for path in sorted((run / "checkpoints").rglob("*")):
        if path.is_file() and path.stat().st_size:
            counts = check(lambda: outcome(run), clean, flipped(path, seed, of_checkpoint))
            # A damaged manifest tells of damage too; nothing of a step goes by unnoticed, but what
            # is no part of the newest one is not read.
            newest = path.is_relative_to(run / "checkpoints" / "10")
            assert not newest or not counts["no effect"] or path.name == manifest.MANIFEST, path
    assert outcome(run) == (clean, [])
    return total


def test_flipped_bits_of_a_run(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    total = check_run(run, seed=0, of_json=5, of_checkpoint=1)
    for name in ("config.json", "results.json", workdir.MARK):
        assert total[name]["refused"] == 5, total


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_flipped_bits_of_a_run(trained, tmp_path, seed):
    check_run(shutil.copytree(trained, tmp_path / "run"), seed, of_json=60, of_checkpoint=6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_with_a_flipped_bit_ends_as_without(trained, tmp_path, seed):
    """Whatever file is damaged, the run is refused or comes to the same end."""
    wanted = records.read_results(trained)
    run = shutil.copytree(trained, tmp_path / "run")
    paths = [run / name for name in FILES] + [
        path for path in sorted((run / "checkpoints").rglob("*"))
        if path.is_file() and path.stat().st_size
    ]
    for path in random.Random(seed).sample(paths, 6):
        shutil.rmtree(run)
        shutil.copytree(trained, run)
        next(flipped(path, seed))
        try:
            assert loop.train(tiny_config(**SECTIONS), run, stream=io.StringIO()) == wanted, path
        except UserError as error:
            assert "\n" not in str(error)


def test_a_damaged_older_checkpoint_does_not_count_as_the_best(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    next(flipped(run / "checkpoints" / "5" / checkpoint.METRICS, 0))
    said = []
    assert manifest.newest(run / "checkpoints", said.append, set_aside=True) == 10
    assert "step 5 is passed over" in said[0]
    assert manifest.steps(run / "checkpoints") == [10]


def test_the_best_is_not_named_where_a_step_is_damaged(trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    facts = records.read_network("--from", str(run))
    best = Place(str(run), member="0", best=True)
    assert choose("--from", run, best, facts).step in (5, 10)
    next(flipped(run / "checkpoints" / "5" / checkpoint.METRICS, 0))
    with pytest.raises(UserError, match="is corrupt, so the best is not known; name a step"):
        choose("--from", run, best, facts)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for number in range(6):
            size = generator.integers(8, 14, 2)
            pixels = generator.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / "train" / name / f"{number}.png")
    return tmp_path / "set"


def loaded(pictures):
    dataset = data.load(f"folder:{pictures}", {"train": "train"})
    split = dataset.splits["train"]
    arrays = split.sizes.tolist(), split.label.tolist(), data.pixel_statistics(split)
    return repr((split.digest, dataset.class_names, *arrays)), []


@pytest.mark.parametrize("count", [25, pytest.param(400, marks=pytest.mark.slow)])
def test_flipped_bits_of_the_index_change_nothing(pictures, count):
    clean = loaded(pictures)[0]
    kept = sorted(kept_path("x").parent.iterdir())
    assert len(kept) == 2  # sizes, and statistics
    for path in kept:
        for place in flipped(path, 0, count):
            assert loaded(pictures)[0] == clean, place
    for path in kept:  # a file of other arrays is none either
        np.savez(path, version=np.arange(3), names=np.zeros(3), histogram=np.zeros(3))
        assert loaded(pictures)[0] == clean


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bits_of_arrays(tmp_path, count):
    path = tmp_path / "table.npz"
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(16, 4)).astype(np.float32)
    np.savez(path, index=np.arange(16), logits=logits, class_names=np.array(list("abcd")))

    def read():
        return sha256_arrays({
            **tables.read(path), "class_names": np.array(tables.class_names(path))
        }), []

    check(read, read()[0], flipped(path, 1, count))

    images = generator.integers(0, 256, (16, 4, 4, 3), np.uint8)
    path = tmp_path / "set.npz"
    np.savez(path, train_image=images, train_label=np.arange(16) % 4)

    def load():
        split = data.load(f"arrays:{path}", {"train": "train"}).splits["train"]
        return sha256_arrays({"image": np.asarray(split.image), "label": split.label}), []

    check(load, load()[0], flipped(path, 2, count))


@pytest.mark.parametrize("count", [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_bits_of_a_card(tmp_path, count):
    card = model_card.ModelCard("tiny", 2, (8, 8), (0.5,) * 3, (1.0,) * 3, ("ant", "bee"))
    path = tmp_path / "card.json"
    model_card.write_card(path, card)
    counts = check(lambda: (model_card.read(path), []), card, flipped(path, 3, count))
    assert counts["refused"] > 0.9 * count
