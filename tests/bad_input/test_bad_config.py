"""A wrong command line, config file, field or section is told in one line."""

import pytest

from kdaug_jax.experiment import config as configs
from tests.bad_input.helpers import HEAD, TEACHER, files, one_line
from tests.conftest import tiny_config

DIGITS = "--config=configs/digits_kd.py"


WHOLE = HEAD + """
def get_config():
    return ConfigDict({whole!r})
"""


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "error: --config: is missing; --config=configs/digits_kd.py"),
        (["--config=configs/nope.py"], "error: --config: there is no file 'configs/nope.py'"),
        ([f"{DIGITS}:smoke"], "error: --workdir: is missing; --workdir=runs/NAME"),
        ([f"{DIGITS}:smoke", "--workdir=W", "stray"], "command line: does not know 'stray'"),
        ([f"{DIGITS}:smoke", "--workdri=W"], "Did you mean: workdir"),
        (
            [f"{DIGITS}:smoke", "--workdir=W", "--config.optim.nestrov=true"],
            "error: optim.nestrov: there is no such field; did you mean nesterov or restart?",
        ),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.train.epochs=many"], "train.epochs=many"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.data.batch_size=1.5"], "batch_size=1.5"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--config.optim.nesterov=no"], "nesterov=no"),
        ([f"{DIGITS}:smoke", "--workdir=W", "--mode=trian"], "should be one of <train|search"),
        (
            [f"{DIGITS}:smok", "--workdir=W"],
            "error: --config: has no option 'smok'; did you mean smoke?",
        ),
        ([f"{DIGITS}:magnitude=high", "--workdir=W"], "must be a int"),
        ([f"{DIGITS}:smoke", "--workdir=/proc/none"], "--workdir: /proc/none cannot be written"),
        ([DIGITS, "--workdir=W", "--mode=evaluate"], "holds no run; train it first"),
        (
            [f"{DIGITS}:smoke", "--workdir=W", "--distributed=2/2@host:1"],
            "error: --distributed: cannot read '2/2@host:1'; --distributed=auto, or NUMBER/COUNT@",
        ),
    ],
)
def test_command_line(run, words, message, capsys, tmp_path):
    assert run(*(word.replace("=W", f"={tmp_path / 'w'}") for word in words)) == 2
    assert message in one_line(capsys.readouterr().err)
    assert files(tmp_path) == {}


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(:", "config.py:1: SyntaxError"),
        ("import no_such_module", "config.py:1: ModuleNotFoundError"),
        ("def get_config():\n    return 1 / 0", "config.py:2: ZeroDivisionError"),
        ("def get_config():\n    return int('x')", "config.py:2: ValueError: invalid literal"),
        ("def get_config():\n    return 3", "has no get_config() that returns a ConfigDict"),
    ],
)
def test_a_config_file_that_fails_is_told_with_its_line(run, tmp_path, capsys, text, message):
    (tmp_path / "config.py").write_text(text)
    assert run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}") == 2
    assert message in one_line(capsys.readouterr().err)


# Every kind of number that a config can hold, except those of other optimisers.
EVERYTHING = dict(
    TEACHER,
    views={"x": "pad_crop(1)|flip"},
    networks={
        "student": configs.network(
            "tiny", trainable=True, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)
        ),
        "teacher": configs.network(
            "tiny_wide", recipe=(("train.epochs", 4.0), ("optim.schedule.base", 0.2))
        ),
    },
    terms={
        "a": configs.term("cross_entropy", ("x",), weight=dict(
            name="milestones", base=1.0, at=(1, 1.5), factor=0.1, warmup=0.5)),
        "b": configs.term("kl", ("x",), teacher="teacher", temperature=4.0, weight=dict(
            name="step_decay", base=1.0, every=1, factor=0.5)),
        "c": configs.term("topk_kl", ("x",), teacher="teacher", k=2, weight=dict(
            name="linear", base=1.0, end=0.5)),
        "d": configs.term("binary_cross_entropy", ("x",), weight=dict(
            name="cosine", base=1.0, end=0.5, warmup=1, unit="step")),
    },
    optim=dict(
        schedule=dict(name="exponential", base=0.1, every=0.5, factor=0.5, staircase=False),
        ema=0.9, clip_norm=5.0,
    ),
    phases=(
        (1, {"terms.a.weight": 0.5, "optim.weight_decay": 0.1}), (1.4, {"terms.b.temperature": 1})
    ),
    population=(("terms.c.k", (1, 2)), ("seed", (0, 1)), ("optim.schedule.base", (0.1, 0.2))),
)


def numbers(tree, path=()):
    """Lists the paths of the numbers in nested dicts and tuples."""
    if isinstance(tree, dict | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from numbers(value, (*path, key))
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield path


def replaced(tree, path, value):
    if not path:
        return value
    inner = replaced(tree[path[0]], path[1:], value)
    if isinstance(tree, dict):
        return {**tree, path[0]: inner}
    return (*tree[: path[0]], inner, *tree[path[0] + 1 :])


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("error, shown", [
    ("GeneratorExit('x')", "GeneratorExit: x"),
    ("BaseException", "BaseException: "),
    ("BaseExceptionGroup('all', [GeneratorExit()])", "BaseExceptionGroup: all (1 sub-exception)"),
])
def test_a_config_file_may_raise_anything(run, tmp_path, capsys, error, shown):
    (tmp_path / "c.py").write_text(f"def get_config():\n    raise {error}\n")
    assert run(f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'w'}") == 2
    assert f"c.py:2: {shown}; mend the file" in one_line(capsys.readouterr().err)


def test_every_number_must_be_finite_and_in_its_range(run, tmp_path, capsys):
    whole = configs.validate(tiny_config(**EVERYTHING))
    paths = [path for path in numbers(whole) if path != ("mesh", "data")]  # -1 is all devices
    assert len(paths) > 50
    for number, path in enumerate(paths):
        name = [key for key in path if isinstance(key, str)][-1]
        if path[0] == "population":
            name = whole["population"][path[1]][0]
        below = -2 if path == ("data", "workers") else -1  # which leaves it to the run
        for bad in (NAN, (INF, below, -INF, 10**50)[number % 4]):
            (tmp_path / "config.py").write_text(WHOLE.format(whole=replaced(whole, path, bad)))
            status = run(f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'w'}")
            assert status == 2, (path, bad)
            line = one_line(capsys.readouterr().err)
            assert name in line and str(bad) in line, (path, bad, line)
    assert files(tmp_path / "w") == {}


@pytest.mark.parametrize(
    "override, message",
    [
        # Views, losses, names
        ("views.x=flip|flop", "error: views.x: unknown stage 'flop'; did you mean flip"),
        ("views.x=flip(1.5)", "views.x.flip.probability: got 1.5; must be at least 0 and at most"),
        ("views.x=randaugment(2, 1e999)", "views.x.randaugment.m: got inf; must be finite"),
        ("views.x=pad_crop(-1)", "views.x.pad_crop: got padding=-1; must be 0..8 pixels"),
        ("views.x=cutout(2, fill=(1, 2))", "views.x.cutout.fill: got (1, 2); must be 'mean'"),
        ("views.x=repeat(0)|flip", "error: views.x.repeat: got n=0; must be at least 1"),
        ("views.x=pick('kld')", "error: views.x.pick: unknown score 'kld'; did you mean kl?"),
        ("views.x=pick('kl')", "error: views.x.pick: no network 'teacher'; known: student"),
        ("views.x=pick('kl', 0.1, teacher='student')", "views.x.pick.keep: 0.1 of 8 rows leaves"),
        ("eval.view=view('x')", "error: eval.view: starts from another view"),
        ("eval.view=repeat(2)", "error: eval.view: changes the number of rows; leave repeat"),
        ("eval.metrics=('accuracy','nll','mse')", "error: eval.metrics: unknown metric 'mse'; did"),
        ("eval.human=nowhere.npy", "error: eval.human: is 'nowhere.npy'; name a file of answers"),
        ("terms.ce.loss=cross_entrop", "error: terms.ce.loss: unknown loss 'cross_entrop'; did"),
        ("terms.ce.loss=builtins:max", "error: terms.ce.loss: 'builtins:max' is of type"),
        ("terms.ce.loss=math:pi", "'math:pi' is of type float, which is not a rea"),
        ("terms.ce.loss=math:sqrt", "terms.ce.loss: 'math:sqrt' has no argument that it could be"),
        ("terms.ce.label_smoothing=1.5", "terms.ce.label_smoothing: got 1.5; must be at least 0"),
        ("checkpoint.best=eval/validation/acc", "did you mean eval/validation/accuracy"),
        ("networks.student.name=tinny", "networks.student.name: unknown network 'tinny'; did you"),
        # Tuples of a wrong length
        ("networks.student.mean=(1.0, 2.0)", "networks.student.mean: has 2 values; one for each"),
        ("networks.student.std=(1.0,)", "networks.student.std: has 1 values; one for each of the"),
        # What devices, groups and micro-batches share
        ("data.batch_size=6", "data.batch_size: 6 cannot be shared by 4 devices; use 4 or 8"),
        (
            "train.replica_batch_size=3",
            "train.replica_batch_size: 3 does not divide data.batch_size 8; use a div",
        ),
        ("train.accumulate=3", "train.accumulate: 3 micro-batches cannot share data.batch_size 8"),
        ("train.accumulate=4", "8 cannot be shared by 4 devices in 4 micro-batches; use 16 or 32"),
        ("train.accumulate=0", "train.accumulate: got 0; must be at least 1"),
        ("mesh.data=3", "data.batch_size: 8 cannot be shared by 3 devices; use 6 or 9, or set"),
        ("mesh.data=5", "mesh.data: asks for 5 devices of 4; use -1 for all"),
        ("mesh.data=0", "mesh.data: asks for 0 devices of 4"),
        ("mesh.model=3", "mesh.model: 3 does not divide the 4 devices; use a divisor: 1, 2, 4"),
        ("mesh.model=0", "mesh.model: got 0; must be at least 1"),
        ("networks.student.shard=model", "student.shard: got 'model'; known: \"\", auto, data"),
        # Lengths
        ("train.epochs=0.0", "train.epochs: got 0.0; must be more than 0"),
        ("train.epochs=1e9", "train.epochs: are 5,000,000,000 steps; at most 2,147,483,647"),
        ("optim.schedule.warmup=2.5", "optim.schedule.warmup: lasts 12 steps of 10; make it short"),
        ("checkpoint.keep=1", "checkpoint.keep: got 1; must be at least 2"),
        # Splits and image sizes
        ("data.train=train[5:5]", "data.train: 'train[5:5]' holds none of the 40 examples of"),
        ("data.train=train[:7]", "data.batch_size: 8 is more than the 7 training examples; at mo"),
        ("data.train=trian", "has no split 'trian', but train, validation, test; set data.train="),
        ("data.source=synthetic:3x3,4,40", "tiny needs images of at least 4 pixels a side, the"),
        ("data.source=sinthetic:8x8,4,40", "unknown source 'sinthetic'; did you mean synthetic"),
        ("data.source=idx", "data.source: idx needs a directory; idx:DIR"),
    ],
)
def test_fields(told, override, message):
    assert message in told(2, {}, f"--config.{override}")


@pytest.mark.parametrize(
    "sections, message",
    [
        (
            dict(networks={"student": configs.network("tiny", trainable=True, mean=(1.0,) * 4)}),
            "networks.student.mean: has 4 values; one for each of the 3 channels",
        ),
        (
            dict(networks={
                "student": configs.network("wrn_10_1", trainable=True, options=dict(dropout="no"))
            }),
            "networks.student.options.dropout: is 'no'; 0 ≤ dropout < 1",
        ),
        (
            dict(optim=dict(schedule=dict(name="milestones", base=0.1, at=(1,), factor=-1.0))),
            "optim.schedule: factor = -1.0; must be at least 0",
        ),
        (dict(phases=((1, {"views.x": ""}, 2),)), "phases: got ((1, {'views.x': ''}, 2),); must"),
        (dict(phases=((2, {"views.x": ""}),)), "phases.0: starts at epoch 2; phases follow each"),
        (
            dict(phases=((1, {"terms.ce.weigth": 0.5}),)),
            "phases.0 (terms.ce.weigth): is not a field; did you mean weight",
        ),
        (
            dict(terms={"joint": configs.term("a2aug", ("x",))}),
            "error: terms.joint: is put on 1 view; an ensemble needs at least 2 in `on`",
        ),
        (
            dict(
                views={name: dict(ops="flip", branch=int(name == "c")) for name in "abc"},
                terms={"joint": configs.term("a2aug", ("a", "b", "c"))},
            ),
            "error: terms.joint.on: its 3 views have 2 BatchNorm branches; give each view a branch",
        ),
        (
            dict(
                views={"a": "", "b": dict(ops="flip", branch=2)},
                terms={"ce": configs.term("cross_entropy", ("a", "b"))},
            ),
            "error: networks.student: no view of it trains BatchNorm branch 1 of the 3 that would",
        ),
        (
            dict(
                views={"a": "mixup(1.0)", "b": "cutmix(1.0)"},
                terms={"joint": configs.term("a2aug", ("a", "b"))},
            ),
            "error: terms.joint.on: views 'a' and 'b' are not labelled alike; start both from one",
        ),
        (
            dict(
                views={"x": "", "a": 'view("x")|flip', "b": 'view("a")|mixup(1.0)'},
                terms={"joint": configs.term("a2aug", ("a", "b"))},
            ),
            "error: terms.joint.on: views 'a' and 'b' are not labelled alike; start both from one",
        ),
        (dict(population=(("seed",),)), "population: got (('seed',),); must be a tuple of pairs"),
        (dict(population=(("terms.ce.wait", (1.0,)),)), "terms.ce.wait: is not a traced number"),
    ],
)
def test_sections(told, sections, message):
    assert message in told(2, sections)


def test_numbers_of_a_crop_are_swept_on_the_host(told, tiny):
    sections = dict(
        views={"x": "random_resized_crop(8)"}, terms={"ce": configs.term("cross_entropy", ("x",))},
        population=(("views.x.random_resized_crop.scale", ((0.5, 1.0), (0.08, 1.0))),),
    )
    wrong = dict(population=(("views.x.random_resized_crop.scales", ((0.5, 1.0),)),))
    assert "data.crop" not in told(2, {**sections, **wrong})
    line = told(2, sections)
    advised = line.rstrip().rpartition("; add ")[2]
    assert "views.x.random_resized_crop.scale: is not a traced number where crops run on" in line
    assert advised == "--config.data.crop=host" and tiny(sections, advised) == 0
