"""What is wrong with a teacher is told before anything is trained."""

import shutil

import pytest

from kdaug_jax.experiment import config as configs
from tests.bad_input.helpers import TEACHER


def with_teacher(**fields):
    networks = {**TEACHER["networks"], "teacher": dict(name="tiny_wide", **fields)}
    return {**TEACHER, "networks": networks}


@pytest.mark.parametrize(
    "sections, words, message",
    [
        (TEACHER, ["--config.terms.kd.k=5"], "terms.kd.k: got 5; must be at least 1 and at most 4"),
        (TEACHER, ["--config.terms.kd.k=0"], "terms.kd.k: got 0; must be at least 1"),
        (
            {**TEACHER, "population": (("terms.kd.k", (2, 5)),)}, [],
            "terms.kd.k: got 5; must be at least 1 and at most 4",
        ),
        (
            {**TEACHER, "phases": ((1, {"terms.kd.k": 5}),)}, [],
            "phases.0 (terms.kd.k): got 5; must be at least 1 and at most 4",
        ),
        (with_teacher(checkpoint="no"), [], "networks.teacher.checkpoint: 'no' is not a working"),
        (with_teacher(recipe=("train.epochs", 3.0)), [], "networks.teacher.recipe: got ('train."),
        (
            with_teacher(recipe=(("train.epoch", 3.0),)), [],
            "networks.teacher.recipe (train.epoch): there is no such field; did you mean epochs?",
        ),
        (
            with_teacher(recipe=(("optim.schedule.warmup", 3.0),)), [],
            "networks.teacher.recipe (optim.schedule.warmup): lasts 15 steps of 10",
        ),
        # The experiment's own batch does not fit, that of the teacher does.
        (
            with_teacher(recipe=(("data.batch_size", 8),)), ["--config.data.batch_size=6"],
            "error: data.batch_size: 6 cannot be shared by 4 devices",
        ),
        (
            with_teacher(recipe=(("data.batch_size", 6),)), [],
            "networks.teacher.recipe (data.batch_size): 6 cannot be shared by 4 devices",
        ),
    ],
)
def test_teachers(told, sections, words, message):
    assert message in told(2, sections, *words)


def test_a_given_teacher_is_looked_at_before_another_is_trained(told, finished, tmp_path):
    sections = with_teacher(checkpoint=str(finished))
    sections["networks"]["teacher"]["name"] = ""
    sections["networks"]["other"] = configs.network("tiny_wide")
    sections["terms"] = {**TEACHER["terms"], "more": configs.term("kl", ("x",), teacher="other")}
    shutil.rmtree(finished / "checkpoints")
    line = told(4, sections, directory=tmp_path / "student")
    assert f"{finished / 'checkpoints'}: holds no checkpoint; train that network first" in line
