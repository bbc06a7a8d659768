"""The examples run, here in a short form."""

import importlib.util
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def round_trip(torch):
    spec = importlib.util.spec_from_file_location("round_trip", EXAMPLES / "torch_round_trip.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other by spinning
    yield module
    torch.set_num_threads(threads)


def test_from_pytorch_and_back(round_trip, tmp_path, capsys):
    words = [f"--workdir={tmp_path / 'w'}", "--teacher_epochs=3", "--epochs=2"]
    assert round_trip.main(words) == 0
    said = capsys.readouterr().out
    # The teacher is as good here as there, and better than chance.
    there = re.search(r"teacher in PyTorch: validation accuracy ([\d.]+) %", said)
    here = re.search(r"teacher: validation accuracy ([\d.]+) %", said)
    assert there[1] == here[1] and float(here[1]) > 30.0
    student = re.search(r"student: test accuracy ([\d.]+) % here, ([\d.]+) % in PyTorch", said)
    assert student[1] == student[2]
