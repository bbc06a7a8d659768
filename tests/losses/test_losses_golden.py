from pathlib import Path

import numpy as np
import pytest

from tests.golden_losses import FAMILIES
from tests.golden_losses import check as golden_losses

GOLDEN = Path(__file__).parents[1] / "golden" / "losses"
FILES = sorted(GOLDEN.glob("*.npz"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_values_and_gradients_are_the_reference(path):
    assert golden_losses.check_file(path) == []


def test_what_differs_is_told(tmp_path, capsys):
    with np.load(GOLDEN / "kd_T4.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    wrong = {
        "value": {"loss_f64": arrays["loss_f64"] * 1.0001},
        "gradient": {"grad_logits_s_f64": arrays["grad_logits_s_f64"] * 1.01},
        "nan": {"loss_f64": np.float64(np.nan)},
        "shape": {"grad_logits_s_f64": arrays["grad_logits_s_f64"][:1]},
        "more": {"other": np.float32(1.0)},
        "family": {"family": np.asarray("kll")},
        "setting": {"cfg_T": np.float64(3.0)},
        "absent": {"logits_t": None},
    }
    np.savez(tmp_path / "a_right.npz", **arrays)
    for name, change in wrong.items():
        changed = {**arrays, **change}
        changed = {key: value for key, value in changed.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **changed)
    assert golden_losses.check(tmp_path) == (1, len(wrong))
    printed = capsys.readouterr().out
    for line in (
        "value.npz: loss: 1 of 1 differ", "gradient.npz: grad_logits_s: ", "nan.npz: loss: 1 of 1",
        "shape.npz: grad_logits_s: has shape (8, 10) instead of (1, 10)",
        "more.npz: other: is not computed", "family.npz: unknown family 'kll'", "setting.npz: loss",
        "absent.npz: KeyError",
    ):
        assert line in printed
    assert "a_right" not in printed


def test_every_family_has_a_file():
    stored = set()
    for path in FILES:
        with np.load(path) as file:
            stored.add(str(file["family"]))
    assert stored == set(FAMILIES)
