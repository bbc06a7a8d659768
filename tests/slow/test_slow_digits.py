"""The main job at full size, as `make demo` runs it."""

import importlib.util
import io
from pathlib import Path

import pytest

from kdaug_jax.training import loop, teachers

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "configs" / "digits_kd.py"


def test_teacher_and_student_learn_the_digits(tmp_path):
    spec = importlib.util.spec_from_file_location("digits_kd", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    console = io.StringIO()
    full = teachers.ensure(config, tmp_path, stream=console)
    results = loop.train(full, tmp_path, stream=console)
    # Chance is 0.1; the teacher has been seen at 0.98 and the student at 0.95.
    said = next(line for line in console.getvalue().splitlines() if line.startswith("teacher "))
    assert float(said.split()[-2]) > 95.0
    assert results[""]["eval/test/accuracy"] > 0.9
