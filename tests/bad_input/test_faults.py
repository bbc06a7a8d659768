"""Losses that are not finite, and signals, while a run is under way."""

import os
import signal

from kdaug_jax.runtime import manifest
from kdaug_jax.training import loop
from tests.bad_input.helpers import TWICE, fresh, one_line, results


def test_a_loss_that_is_not_finite(tiny, tmp_path, capsys):
    sections = dict(TWICE, phases=((1, {"optim.schedule.base": 1e30}),))
    assert tiny(sections) == 5
    line = one_line(capsys.readouterr().err)
    assert line.startswith("error: gradient: not finite at step 6; lower the rate or the weight")
    assert line.endswith("run again with --allow_config_change, to go on from step 5\n")
    assert manifest.steps(tmp_path / "w" / "checkpoints") == [5]
    assert manifest.verify(tmp_path / "w" / "checkpoints" / "5") == ""


def test_sigterm(tiny, straight, tmp_path, capsys, monkeypatch):
    called, advance = [], loop.population.advance

    def signalling(*args):
        called.append(1)
        if len(called) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(*args)

    monkeypatch.setattr(loop.population, "advance", signalling)
    assert tiny(TWICE) == 75
    line = one_line(capsys.readouterr().err)
    assert line == "error: SIGTERM: step 3 is saved; run again to go on\n"
    assert tiny(TWICE) == 0
    assert results(tmp_path / "w") == results(straight)


def test_sigterm_to_a_process(tmp_path):
    running = fresh(tmp_path, dict(train=dict(epochs=1e6)), tmp_path / "w")
    while "step " not in running.stdout.readline():
        assert running.poll() is None, running.stderr.read()
    running.send_signal(signal.SIGTERM)
    shown, said = running.communicate(timeout=120)
    assert running.returncode == 75
    assert " is saved; run again to go on" in one_line(said)
    (step,) = manifest.steps(tmp_path / "w" / "checkpoints")[:1]
    assert manifest.verify(tmp_path / "w" / "checkpoints" / str(step)) == ""
