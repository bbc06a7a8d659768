"""Configs, directories and damage that the tests of bad input share."""

import json
import os
import subprocess
import sys
from pathlib import Path

from kdaug_jax.experiment import config as configs

ROOT = Path(__file__).parents[2]


HEAD = "from math import inf, nan\nfrom ml_collections import ConfigDict\n"


SECTIONS = HEAD + """
from tests.conftest import tiny_config
def get_config():
    return tiny_config(**{sections!r})
"""


TEACHER = dict(
    networks={"student": configs.network("tiny", trainable=True), "teacher": {"name": "tiny_wide"}},
    terms={
        "ce": configs.term("cross_entropy", ("x",)),
        "kd": configs.term("topk_kl", ("x",), teacher="teacher", k=2),
    },
    train=dict(allow_weak_teacher=True),
)


# Two checkpoints, of steps 5 and 10.
TWICE = dict(checkpoint=dict(every_steps=5, every_epochs=0.0))


def files(directory):
    """What lies in a directory; the lock is a trace of every run, refused or not."""
    paths = (path for path in Path(directory).rglob("*") if path.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in paths if p.name != "lock"}


def one_line(text):
    assert text.startswith("error: ") and text.count("\n") == 1, text
    return text


def results(directory):
    return json.loads((directory / "results.json").read_text())


def fresh(tmp_path, sections, directory):
    """Starts a run in a process of its own."""
    text = SECTIONS.format(sections=sections).replace("def get", (
        "from tests import tiny\ntiny.register()\ndef get"
    ))
    (tmp_path / "fresh.py").write_text(text)
    words = [f"--config={tmp_path / 'fresh.py'}", f"--workdir={directory}"]
    return subprocess.Popen(
        [sys.executable, "main.py", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
