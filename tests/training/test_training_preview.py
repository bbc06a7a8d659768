"""A preview shows the views of each phase, with the numbers of each member."""

import io

import numpy as np
import pytest

from kdaug_jax.experiment import config as configs
from kdaug_jax.training import preview
from kdaug_jax.training.setup import prepare
from tests.conftest import tiny_config

P = "views.x.flip.probability"


@pytest.fixture
def config():
    made = tiny_config(
        views={"x": "flip(0.0)", "y": 'view("x")|cutout(3)', "z": "pad_crop(1)"},
        phases=((1, {"views.z": "pad_crop(2)"}),),
        population=((P, (0.0, 1.0)), ("terms.ce.weight", (1.0, 0.5))),
        terms={"ce": configs.term("cross_entropy", ("x", "y", "z"))},
    )
    made.train.epochs = 2.0
    return made


def test_views_are_those_of_members_and_phases(config, tmp_path):
    setup = prepare(configs.validate(config), tmp_path, print, record=False)
    assert preview.distinct_views(setup) == [
        (0, 0, "x", f"x: flip(0.0)  [{P}=0.0]"),
        (0, 0, "y", f'y: view("x")|cutout(3)  [{P}=0.0]'),
        (0, 0, "z", "z: pad_crop(1)"),
        (0, 2, "x", f"x: flip(0.0)  [{P}=1.0]"),
        (0, 2, "y", f'y: view("x")|cutout(3)  [{P}=1.0]'),
        (1, 0, "z", "z: pad_crop(2)  from epoch 1"),
    ]
    still, mirrored = (preview.first_batch(setup, 0, member)[0]["x"] for member in (0, 2))
    np.testing.assert_array_equal(still.image[:, :, ::-1], mirrored.image)
    later = preview.first_batch(setup, 1, 0)[0]["z"]
    assert (np.sort(later.index) != np.sort(still.index)).any()  # the first batch of that epoch
    setup.feed.close()


def test_a_large_population_is_cut_short(config, tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "MOST_ROWS", 2)
    said = io.StringIO()
    assert preview.preview(config, tmp_path, stream=said).exists()
    assert "4 further views of phases and members are left out" in said.getvalue()
