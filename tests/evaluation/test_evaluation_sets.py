"""Further data sets of a run: their classes, sizes, corruptions, and where their numbers appear."""

import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from kdaug_jax import data
from kdaug_jax.data.class_maps import IMAGENET_A, IMAGENET_R
from kdaug_jax.data.corruptions import ALEXNET_ERRORS, CORRUPTIONS
from kdaug_jax.data.sources.cifar import NAMES
from kdaug_jax.errors import ConfigError, DataError
from kdaug_jax.evaluation.evaluate_run import evaluate_run
from kdaug_jax.evaluation.sets import EvalSet, SetData, corruption_errors, load_sets
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.frozen import stored
from kdaug_jax.experiment.networks import build_network
from kdaug_jax.runtime.writer import read_rows
from kdaug_jax.training import loop
from tests.conftest import tiny_config
from tests.data import made

SIDE = 8
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def images(root, classes, count, side=SIDE, seed=0, suffix=".png"):
    """Class folders of noise, brighter from class to class; a class looks alike in all sets."""
    random = np.random.RandomState(seed)
    for name in classes:
        level = 40 * CLASSES.index(name) if name in CLASSES else 0
        (root / name).mkdir(parents=True)
        for number in range(count):
            height, width = (side, side) if isinstance(side, int) else random.randint(*side, 2)
            pixels = level + random.randint(0, 80, (height, width, 3), dtype=np.uint8)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}{suffix}")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A data set of five classes."""
    root = tmp_path_factory.mktemp("sets")
    for seed, (split, count) in enumerate((("train", 16), ("validation", 8), ("test", 6))):
        images(root / "base" / split, CLASSES, count, seed=seed)
    return root


def experiment(place, sets=(), **sections):
    settings = dict(
        data=dict(source=f"folder:{place / 'base'}", batch_size=16),
        views={"x": "flip"},
        train=dict(epochs=2.0),
        eval=dict(sets=sets),
    )
    for name, value in sections.items():
        settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
    return tiny_config(**settings)


@pytest.fixture(scope="module")
def trained(place, tmp_path_factory, tiny_family):
    """Working directory and results of a run without sets."""
    directory = tmp_path_factory.mktemp("trained")
    return directory, loop.train(experiment(place), directory, stream=io.StringIO())


def evaluate(place, trained, sets, **sections):
    console = io.StringIO()
    results = evaluate_run(experiment(place, sets, **sections), trained[0], stream=console)
    return results[""], console.getvalue()


def refused(place, sets, *words, kind=ConfigError, **sections):
    full = configs.validate(experiment(place, sets, **sections))
    dataset = data.load(f"folder:{place / 'base'}", {"train": "train"})
    info = data.describe(dataset)
    with pytest.raises(kind) as caught:
        load_sets(full, info, dataset.class_names, lambda line: None)
    line = str(caught.value)
    assert "\n" not in line
    for word in words:
        assert word in line, line
    return line


def logits(source, directory, split):
    """Logits of a trained network on images as they are, computed apart from the evaluation."""
    info = data.describe(data.load(source, {"train": "train"}))
    info = info._replace(size=(SIDE, SIDE))
    section = configs.network("", checkpoint=str(directory), source="student")
    network = build_network("student", section, info, 1, 0, "float32")
    variables = stored.load("networks.student", network, info, lambda line: None)
    return np.array(network.model.apply(variables, split.image, train=False)[0].logits)


def negative_log_likelihood(logits, label):
    return -np.mean(np.array(jax.nn.log_softmax(logits))[np.arange(len(label)), label])


def test_a_set_that_equals_the_test_split(place, tmp_path):
    sets = (("again", f"folder:{place / 'base' / 'test'}"), ("whole", f"folder:{place / 'base'}"))
    console = io.StringIO()
    config = experiment(place, sets, eval=dict(view=f"center_crop({SIDE})"))
    results = loop.train(config, tmp_path, stream=console)[""]
    for metric in ("accuracy", "nll"):
        expected = results[f"eval/test/{metric}"]
        assert results[f"eval/again/{metric}"] == results[f"eval/whole/{metric}"] == expected
    # They are in every place of results, and in no choice.
    assert json.loads((tmp_path / "results.json").read_text())[""] == results
    rows = [row for row in read_rows(tmp_path) if "eval/again/accuracy" in row]
    assert [row["step"] for row in rows] == [10]
    table = console.getvalue().partition("data set")[2].splitlines()
    assert table[2].split() == [
        "again", f"{100 * results['eval/test/accuracy']:.2f}", "%",
        f"{results['eval/test/nll']:.4f}",
    ]
    for file in (tmp_path / "checkpoints").rglob("*"):
        assert not file.is_file() or b"eval/again" not in file.read_bytes()
    evaluated = io.StringIO()
    assert evaluate_run(config, tmp_path, stream=evaluated)[""] == results
    assert evaluated.getvalue().partition("data set")[2].splitlines()[2] == table[2]


def test_no_choice_is_made_by_a_set(place, run, capsys, tmp_path):
    (tmp_path / "config.py").write_text(
        "from tests.evaluation.test_evaluation_sets import experiment\n"
        "from pathlib import Path\n"
        "def get_config():\n"
        f"    return experiment(Path({str(place)!r}), (('again', 'folder:{place / 'base'}'),))\n"
    )
    words = [f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}"]
    assert run(*words, "--config.checkpoint.best=eval/again/accuracy") == 2
    assert "checkpoint.best: there is no 'eval/again/accuracy'; did you mean eval/validation" in (
        capsys.readouterr().err
    )


def test_a_set_of_some_classes_cuts_the_logits(place, trained, tmp_path):
    images(tmp_path / "part", ("eel", "bee", "cat"), 5, seed=7)
    results, console = evaluate(place, trained, (("part", f"folder:{tmp_path / 'part'}"),))
    assert "eval.sets 'part': holds 3 of the 5 classes, and only their logits count" in console
    split = data.load_test(f"folder:{tmp_path / 'part'}").splits["test"]
    every = logits(f"folder:{place / 'base'}", trained[0], split)
    of_set = every[:, [1, 2, 4]]  # bee, cat, eel
    chosen = np.argmax(of_set, axis=1)
    assert results["eval/part/accuracy"] == pytest.approx(np.mean(chosen == split.label), abs=1e-6)
    nll = negative_log_likelihood(of_set, split.label)
    assert results["eval/part/nll"] == pytest.approx(nll, rel=1e-5)
    # Uncut, another class would have been chosen for some.
    assert (np.argmax(every, axis=1) != np.array([1, 2, 4])[chosen]).any()


def test_sizes(place, trained, tmp_path):
    images(tmp_path / "large", CLASSES, 4, side=11, seed=3)
    images(tmp_path / "mixed", CLASSES, 4, side=(9, 14), seed=4)
    large, mixed = (("n", f"folder:{tmp_path / name}") for name in ("large", "mixed"))
    ending = f"networks are evaluated on {SIDE}×{SIDE}; let eval.view begin with resize(8, 8)"
    line = refused(place, (large,), "'n' holds images of 11×11 pixels, " + ending)
    refused(place, (mixed,), "'n' holds images of several sizes (", ending)
    # The advice, as it is printed; images of that size stay what they were.
    view = line.partition("begin with ")[2].partition(", which")[0]
    results, _ = evaluate(place, trained, (large,), eval=dict(view=view))
    assert "eval/n/accuracy" in results
    for name in ("accuracy", "nll"):
        assert results[f"eval/test/{name}"] == trained[1][""][f"eval/test/{name}"]
    assert "eval/n/nll" in evaluate(place, trained, (mixed,), eval=dict(view=view))[0]


def test_a_set_of_the_networks_size_is_not_cropped_again(tmp_path, place, tiny_family):
    for seed, split in enumerate(("train", "validation", "test")):
        images(tmp_path / "base" / split, CLASSES, 8, side=(9, 14), seed=seed)
    small = images(tmp_path / "small", CLASSES, 4, seed=9)
    config = experiment(
        tmp_path, (("small", f"folder:{small}"),), views={"x": f"random_resized_crop({SIDE})"},
        eval=dict(view=f"resize_shorter(9)|crop_center({SIDE})"),
    )
    results = loop.train(config, tmp_path / "w", stream=io.StringIO())[""]
    split = data.load_test(f"folder:{small}").splits["test"]
    every = logits(f"folder:{tmp_path / 'base'}", tmp_path / "w", split)
    nll = negative_log_likelihood(every, split.label)
    assert results["eval/small/nll"] == pytest.approx(nll, rel=1e-5)


def test_all_corruptions_give_a_mean_error(tmp_path, tiny_family):
    random = np.random.RandomState(0)
    _, label = made.cifar(tmp_path / "cifar", 10, per_file=16)["test"]
    for name in CORRUPTIONS:
        np.save(tmp_path / f"{name}.npy", random.randint(0, 256, (80, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(label, 5))
    sets = (
        ("c", f"cifar10c:{tmp_path}"),
        ("fog", f"cifar10c:{tmp_path}?corruption=fog"),
        ("fog_two", f"cifar10c:{tmp_path}?corruption=fog&severity=2"),
    )
    config = tiny_config(
        data=dict(source=f"cifar10:{tmp_path / 'cifar'}", batch_size=16, validation="test"),
        train=dict(epochs=1.0), eval=dict(sets=sets),
    )
    console = io.StringIO()
    results = loop.train(config, tmp_path / "w", stream=console)[""]
    errors = [
        np.mean([1 - results[f"eval/c_{name}_{level}/accuracy"] for level in range(1, 6)])
        for name in CORRUPTIONS
    ]
    assert results["eval/c/mean_error"] == pytest.approx(np.mean(errors), abs=1e-12)
    assert not any("mean_corruption_error" in name for name in results)
    table = console.getvalue().partition("data set")[2].splitlines()
    assert [row for row in table if row.split()[:1] == ["c"]][0].split() == [
        "c", "mean", "error", f"{100 * np.mean(errors):.2f}", "%", "-"
    ]
    for level in range(1, 6):
        assert results[f"eval/fog_{level}/nll"] == results[f"eval/c_fog_{level}/nll"]
    assert results["eval/fog_two/nll"] == results["eval/fog_2/nll"]
    assert not any("fog/" in name or "fog_two/mean" in name for name in results)
    line = next(row for row in console.getvalue().splitlines() if "c_brightness_1/" in row)
    assert len(line) < 400 and "more in metrics.jsonl" in line
    assert evaluate_run(config, tmp_path / "w", stream=io.StringIO())[""] == results


def test_corrupted_images_have_the_labels_of_the_test_set(tmp_path):
    _, label = made.cifar(tmp_path / "cifar", 10)["test"]
    source = f"cifar10:{tmp_path / 'cifar'}"
    full = configs.validate(tiny_config(
        data=dict(source=source, validation="test"), eval=dict(sets=(("c", f"cifar10c:{tmp_path}"
                                                                      "?corruption=fog"),)),
    ))
    dataset = data.load(source, {"train": "train"})
    info = data.describe(dataset)

    def load(labels):
        np.save(tmp_path / "fog.npy", np.zeros((5 * len(labels), 32, 32, 3), np.uint8))
        np.save(tmp_path / "labels.npy", np.tile(labels, 5))
        return load_sets(full, info, dataset.class_names, lambda line: None)

    assert all((item.split.label == label).all() for item in load(label))
    with pytest.raises(DataError) as caught:
        load((label + [0, 1, 0, 0]) % 10)
    assert str(caught.value) == (
        f"cifar10c:{tmp_path}?corruption=fog&severity=1: example 1 has label "
        f"{(label[1] + 1) % 10}, and {label[1]} in the test split of '{source}'; unpack its "
        "archive again"
    )
    with pytest.raises(DataError, match="has 3 examples, and the test split of '.*' 4; unpack"):
        load(label[:3])


def corrupted(normalized):
    return [
        EvalSet(SetData(f"c_{name}_{level}", "c", name, normalized, "imagenetc:D", None, ()), None)
        for name in CORRUPTIONS for level in range(1, 6)
    ]


def test_imagenet_c_divides_by_the_errors_of_alexnet():
    accuracy = {name: 0.3 + 0.02 * number for number, name in enumerate(CORRUPTIONS)}
    sets = corrupted(normalized=True)
    numbers = {f"eval/{item.data.name}/accuracy": accuracy[item.data.corruption] for item in sets}
    expected = np.mean([
        (1 - accuracy[name]) / (ALEXNET_ERRORS[name] / 100) for name in CORRUPTIONS
    ])
    assert corruption_errors(sets, numbers) == {
        "eval/c/mean_corruption_error": pytest.approx(expected)
    }
    mean = 1 - np.mean([*accuracy.values()])
    assert corruption_errors(corrupted(normalized=False), numbers) == {
        "eval/c/mean_error": pytest.approx(mean)
    }
    assert corruption_errors(sets[5:], numbers) == {}  # a corruption is missing
    assert corruption_errors(sets, {"eval/c_fog_1/nll": 1.0}) == {}  # without accuracy


WNIDS = tuple(f"n{10_000_000 + 7 * number:08d}" for number in range(1000))


def folders(root, names):
    """Class folders that share a few images."""
    pictures = []
    root.parent.mkdir(parents=True)
    for level in range(3):
        pictures.append(root.parent / f"{level}.png")
        Image.new("RGB", (SIDE, SIDE), (level, level, level)).save(pictures[-1])
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        (root / name / "a.png").symlink_to(pictures[number % 3])
    return root


def set_of(place, source, trained_names):
    """A set as a network of these classes is evaluated on it."""
    info = data.describe(data.load(f"folder:{place / 'base'}", {"train": "train"}))
    full = configs.validate(experiment(place, (("s", source),)))
    (loaded,) = load_sets(full, info, trained_names, lambda line: None)
    return loaded


def classes_of(place, source, trained_names):
    """Positions of a set's classes among those of a network."""
    return set_of(place, source, trained_names).classes


def test_the_errors_of_alexnet_are_those_on_imagenet_c_alone(place, tmp_path):
    for name, classes, normalized in (("tiny", WNIDS[:200], False), ("c", WNIDS, True)):
        folders(tmp_path / name / "fog" / "3", classes)
        loaded = set_of(place, f"imagenetc:{tmp_path / name}?corruption=fog&severity=3", WNIDS)
        assert loaded.normalized == normalized


def test_a_set_without_class_names_keeps_all_logits(place):
    """Its classes are counted by the labels that occur; the highest ones may not."""
    pixels, label = np.zeros((6, SIDE, SIDE, 3), np.uint8), np.arange(6) % 3
    counted = data.register("counted", data.from_arrays({"test": (pixels, label)}))
    assert classes_of(place, counted, tuple("01234")) == ()
    named = data.register("named", data.from_arrays({"test": (pixels, label)}, ("a", "c", "b")))
    assert classes_of(place, named, tuple("abcde")) == (0, 2, 1)


def test_classes_of_sets_of_imagenet(place, tmp_path):
    words = tuple(f"{wnid} word {number}" for number, wnid in enumerate(WNIDS))
    numbers = tuple(map(str, range(1000)))
    plain = tuple(f"word {number}" for number in range(1000))
    for kind, positions in (("imageneta", IMAGENET_A), ("imagenetr", IMAGENET_R)):
        root = folders(tmp_path / kind / "s", [WNIDS[position] for position in positions])
        # By WordNet ids where the network has them, else in the order of the 1,000.
        for names in (WNIDS, words, numbers, plain):
            assert classes_of(place, f"{kind}:{root}", names) == positions
        shuffled = WNIDS[::-1]
        assert classes_of(place, f"{kind}:{root}", shuffled) == tuple(
            999 - position for position in positions
        )
        refused(place, (("s", f"{kind}:{root}"),), "'s' has a class 'n1", "not; their classes are",
                "ant, bee, cat")
    second = folders(tmp_path / "v2" / "s", numbers)
    sketch = folders(tmp_path / "sketch" / "s", WNIDS)
    for source in (f"imagenetv2:{second}", f"imagenetsketch:{sketch}"):
        for names in (WNIDS, words, numbers, plain):
            assert classes_of(place, source, names) == ()
    assert classes_of(place, f"imagenetsketch:{sketch}", WNIDS[::-1]) == tuple(range(999, -1, -1))
    # Folders of words are sorted by them, which is not the order of the 1,000.
    for source in (f"imagenetv2:{second}", f"imagenetsketch:{sketch}", f"imagenetr:{root}"):
        with pytest.raises(ConfigError, match="'s' has a class '(0|n\\d+)', which the training"):
            classes_of(place, source, tuple(sorted(plain)))
    with pytest.raises(ConfigError, match="'s' has a class '0', which the training data have not"):
        classes_of(place, f"imagenetv2:{second}", WNIDS[::-1])


def test_what_is_refused(place, tmp_path):
    images(tmp_path / "other", ("ant", "fox"), 2)
    refused(place, (("s", f"folder:{tmp_path / 'other'}"),),
            "eval.sets: 's' has a class 'fox', which the training data have not; their classes are",
            "ant, bee, cat, ... (5)")
    refused(place, (("s", "cifar10c:D?corruption=fogg&severity=1"),),
            "eval.sets: 's': cifar10c has no corruption 'fogg'; did you mean fog?")
    refused(place, (("s", "cifar10c:D?corrupton=fog"),),
            "eval.sets: 's': cifar10c has no option 'corrupton'; did you mean corruption?")
    refused(place, (("s", "cifar10c:D?severity=1"),), "eval.sets: 's': cifar10c needs a corruption")
    refused(place, (("s", "nowhere:D"),), "eval.sets: 's': ")
    refused(place, (("s", f"folder:{tmp_path / 'none'}"),), "none: is not a dir", kind=DataError)
    two = (("a_1", f"folder:{place / 'base'}"), ("a", "cifar10c:D?corruption=fog"))
    refused(place, two, "eval.sets: 'a_1' stands for two sets; rename one")


def test_a_set_may_be_a_part_of_a_split(place, trained, tmp_path):
    """The last four images of each class, as CINIC-10's come after those of CIFAR-10."""
    images(tmp_path / "cut" / "test", CLASSES, 6, seed=2)
    for name in CLASSES:
        for number in (0, 1):
            (tmp_path / "cut" / "test" / name / f"{number}.png").unlink()
    sets = (("part", f"folder:{place / 'base'},stratified(test[10:])"),
            ("cut", f"folder:{tmp_path / 'cut'}"), ("all", f"folder:{place / 'base'}"))
    results, _ = evaluate(place, trained, sets)
    assert results["eval/part/nll"] == results["eval/cut/nll"] != results["eval/all/nll"]
    refused(place, (("s", f"folder:{place / 'base'},stratified(tst[10:])"),), "tst")


def test_a_set_without_a_test_split_is_told_where_its_splits_are(place, trained, tmp_path):
    for split in ("train", "validation"):
        images(tmp_path / "set" / split, CLASSES, 2, seed=5)
    line = refused(place, (("s", f"folder:{tmp_path / 'set'}"),), "eval.sets: 's': ",
                   "has no split 'test', but train, validation; name the folder of one of them")
    advised = line.partition("such as ")[2]
    assert "eval/s/nll" in evaluate(place, trained, (("s", advised),))[0]


@pytest.mark.parametrize("sets, words", [
    ((("validation", "folder:D"),), "'validation' is not a usable name; give each set a name"),
    ((("test", "folder:D"),), "'test' is not a usable name"),
    ((("a/b", "folder:D"),), "'a/b' is not a usable name"),
    ((("", "folder:D"),), "'' is not a usable name"),
    ((("a", "folder:D"), ("a", "folder:E")), "'a' is not a usable name; give each set a name of i"),
    ((("a", 3),), "got 3 for 'a'; must be a source"),
    ((("a",),), "must be a tuple of pairs (\"name\", \"source\")"),
])  # fmt: skip
def test_names_and_sources_are_checked(place, sets, words):
    with pytest.raises(ConfigError) as caught:
        configs.validate(experiment(place, sets))
    assert "eval.sets: " in str(caught.value) and words in str(caught.value)


def test_cifars_own_classes_are_those_of_cifar10c(place, tmp_path):
    np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.zeros(5, np.uint8))
    source = f"cifar10c:{tmp_path}?corruption=fog&severity=3"
    info = data.describe(data.load(f"folder:{place / 'base'}", {"train": "train"}))
    full = configs.validate(experiment(place, (("s", source),), eval=dict(view="resize(8, 8)")))
    (loaded,) = load_sets(full, info, NAMES, lambda line: None)
    assert (loaded.classes, loaded.name, len(loaded.split)) == ((), "s", 1)
