"""A folder of config files and finished runs, made by hand: no run of the tests trains."""

import json

from kdaug_jax.experiment import config as configs

FILE = '''"""A small table of a paper.

More text.
"""

from kdaug_jax.experiment.rows import Cell, Row
from kdaug_jax.experiment import config as configs
from tests.conftest import tiny_config

PAPER = "900"
ROWS = (
    Row("Table 1", "plain", "", {"error": 22.4}),
    Row("Table 1", "kd", "weight=1.0", {"error": 19.9}, {"error": 0.2}, "last epoch"),
    Row("Table 3", "advprop", None, {"accuracy": 85.2, "top5": 97.2}, note="AdvProp is not here"),
    Row("Table 4", "kd-again", "weight=1.0", {"accuracy": 80.1}),
    Row("Table 5", "kd-ece", "weight=1.0,ece", {"ece": 0.1}),
    Row("Figure 2", "curve", "weight=2.0", {}),
)
CELLS = {"pair": (
    Cell("teacher", ""),
    Cell("student", "weight=1.0", {"networks.teacher.checkpoint": "cell:teacher@best"}),
)}


def get_config(arg=""):
    given = dict(part.partition("=")[::2] for part in arg.split(",") if part)
    networks = {"student": configs.network("tiny", trainable=True)}
    terms = {"ce": configs.term("cross_entropy", ("x",))}
    if "weight" in given:
        networks["teacher"] = configs.network("tiny")
        terms["kd"] = configs.term("kl", ("x",), teacher="teacher", weight=float(given["weight"]))
    source = "synthetic:8x8,4,16" if "smoke" in given else "cifar10:data"
    measured = dict(metrics=("accuracy", "nll", "ece")) if "ece" in given else {}
    return tiny_config(networks=networks, terms=terms, data=dict(source=source), eval=measured)
'''
# Stands for main.py: prints the config, or writes the results of a run of it.
MAIN = '''import json, pathlib, signal, sys, time
folder = pathlib.Path(__file__).parent
given = {name: value for word in sys.argv[1:] for name, _, value in [word[2:].partition("=")]}
options = given["config"].partition(":")[2]
full = json.loads((folder / "known.json").read_text())[options]
for path, value in given.items():
    if path.startswith("config."):
        *parents, last = path.split(".")[1:]
        section = full
        for name in parents:
            section = section[name]
        section[last] = type(section[last])(value)
if "print_config" in given:
    print(json.dumps(full))
    sys.exit()
place = pathlib.Path(given["workdir"])
place.mkdir(parents=True, exist_ok=True)
with (folder / "calls").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
if (folder / "slow").exists():
    def leave(number, frame):
        sys.exit(75)
    signal.signal(signal.SIGTERM, leave)
    (folder / "started").write_text("")
    time.sleep(60)
if (folder / "refuse").exists():
    print("error: data.source: no such folder", file=sys.stderr)
    sys.exit(3)
if given.get("mode") == "evaluate":
    (place / "evaluations").mkdir(exist_ok=True)
    results = {"": {"eval/test/accuracy": 0.79, "eval/test/ece": 0.25}}
    (place / "evaluations" / "10-test.json").write_text(
        json.dumps({"step": 10, "name": "test", "eval": full["eval"], "results": results}))
    sys.exit()
(place / "checkpoints" / "10").mkdir(parents=True)
files = json.loads((folder / "run.json").read_text())
files["config.json"]["config"] = full
files["environment.json"]["command"] = ["main.py", *sys.argv[1:]]
for name, content in files.items():
    (place / name).write_text(content if isinstance(content, str) else json.dumps(content))
'''
OPTIONS = ("", "weight=1.0", "weight=1.0,ece", "weight=2.0", "smoke", "weight=1.0,smoke")


def full_config(get_config, options):
    return configs.canonical(configs.validate(configs.plain(get_config(options))))


def run_files(config, accuracy=0.79, *, members=None, speed=160.0, devices=2):
    """Gives the files of a finished run: 10 steps, 2 epochs, 8 images a batch."""
    metrics = {"eval/test/accuracy": accuracy, "eval/test/nll": 0.5}
    rows = [
        {"step": 5, "eval/validation/accuracy": accuracy + 0.02, "perf/images_per_second": speed},
        {"step": 10, "eval/validation/accuracy": accuracy, "perf/images_per_second": speed},
    ]
    return {
        "config.json": {"config": config},
        "results.json": members or {"": metrics},
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "environment.json": {
            "command": ["main.py", "--config=configs/small_table.py:weight=1.0", "--workdir=x"],
            "commit": "c0ffee", "device_kind": "TPU v5e", "version": "0.2.0", "processes": 1,
            "devices": [f"device {number}" for number in range(devices)],
        },
    }


def write_run(directory, files):
    directory.mkdir(parents=True)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name).write_text(text)
    return directory
