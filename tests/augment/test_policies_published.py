"""Logs of PBA and archives of Fast AutoAugment, as they are published."""

import json

import numpy as np
import pytest

from kdaug_jax.augment import policies

SIZE = (32, 32)
NONE, FIRST, SECOND, THIRD, FOURTH = ([number] * 60 for number in range(5))


def log(tmp_path, rows, write=repr):
    path = tmp_path / "pbt_policy_5.txt"
    path.write_text("".join(f"{write(row)}\n" for row in rows))
    return str(path)


# The segments of the student's schedule that role-kd publishes: 57, 3, 72, 39 and 29 epochs.
CHAIN = [
    ["9", "3", 59, 57, NONE, FIRST], ["2", "9", 62, 60, FIRST, SECOND],
    ["7", "2", 131, 132, SECOND, THIRD], ["5", "7", 173, 171, THIRD, FOURTH],
]
STRAY = [["1", "0", 5, 6, NONE, THIRD], ["4", "8", 11, 12, NONE, THIRD]]


@pytest.mark.parametrize("form", ["lists", "objects"])
def test_a_log_becomes_a_schedule(tmp_path, form):
    rows, write = STRAY + CHAIN, repr
    if form == "objects":
        rows = [[*row[:4], *({"hp_policy": part, "lr": 0.1} for part in row[4:])] for row in rows]
        write = json.dumps
    path = log(tmp_path, rows, write)
    table = policies.read_schedule(path)
    assert table.shape == (200, 60) and table.dtype == np.int32
    changes = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
    assert list(changes) == [0, 57, 60, 132, 171] and list(table[changes, 0]) == [0, 1, 2, 3, 4]
    assert list(np.bincount(policies.read_schedule(path, 400)[:, 0])) == [114, 6, 144, 78, 58]
    assert list(np.bincount(policies.read_schedule(path, 100, 180)[:, 0])) == [31, 1, 40, 21, 7]
    assert policies.schedule(path, 200, size=SIZE).stages == 2


@pytest.mark.parametrize(
    "row, what",
    [
        ("['5', '7', 173]", "line 5 is no list of 6"),
        ("['5', '7', 173, 171, [0], open('x')]", "line 5 is no list"),
        (["5", "7", 1, "2", THIRD, FOURTH], "line 5: epochs are [1, '2']"),
        (["6", "5", 1, 90, FOURTH, FOURTH], "line 4: its trial is cloned at epoch 171, after"),
        (["6", "5", 1, 190, FOURTH, FOURTH[:59]], "line 5: the policy is 59; must be 60 whole"),
        (["6", "5", 1, 190, FOURTH, [11] * 60], "line 5: probability of Rotate (copy 1"),
        (["6", "5", 1, 290, FOURTH, FOURTH], "line 5: its trial is cloned at epoch 290, after"),
    ],
)
def test_logs_of_another_form_are_refused(tmp_path, row, what):
    path = log(tmp_path, CHAIN)
    with open(path, "a") as file:
        file.write(row if isinstance(row, str) else repr(row))
    with pytest.raises(ValueError) as error:
        policies.read_schedule(path)
    assert what in "; ".join(error.value.args) and "\n" not in error.value.args[0]


ARCHIVE = '''
from elsewhere import nothing
raise SystemExit  # it is read, not executed

def fa_reduced():
    p = [[["Contrast", 0.83, 0.49], ["Sharpness", 0.52, 0.35]], [("Rotate", 0.4, 1.0)]]
    return p

def summed():
    """Two lists."""
    first = [[("Invert", 0.1, 0.7)]]
    second = [[("Equalize", 0.2, 0.6)]]
    return first + second

@decoder
def of_other_levels():
    return [[("Invert", 0.1, 7)]]

def computed():
    return [f() for f in (1, 2)]
'''


def test_an_archive_of_fast_autoaugment(tmp_path):
    path = tmp_path / "archive.py"
    path.write_text(ARCHIVE)
    policy = policies.autoaugment(str(path), table="fa_reduced", size=SIZE)
    as_json = tmp_path / "policy.json"
    as_json.write_text(json.dumps({"levels": "fast", "sub_policies": [
        [["Contrast", 0.83, 0.49], ["Sharpness", 0.52, 0.35]], [["Rotate", 0.4, 1.0]]]}))
    assert policy.ops == policies.autoaugment(str(as_json), size=SIZE).ops
    both = policies.autoaugment(str(path), table="summed", size=SIZE)
    assert {"invert", "equalize"} <= {op.name for op in both.ops}
    for table, what in (
        ("", "holds functions; give table="), ("fa_reduce", "by 'fa_reduce'; give table=, did you"),
        ("of_other_levels", "is returned by 'of_other_levels'"), ("computed", "by 'computed'"),
    ):
        with pytest.raises(ValueError) as error:
            policies.autoaugment(str(path), table=table, size=SIZE)
        assert what in "; ".join(error.value.args), error.value.args
    path.write_text("def f(:")
    with pytest.raises(ValueError, match="line 1: neither JSON nor Python"):
        policies.autoaugment(str(path), table="f", size=SIZE)
    with pytest.raises(ValueError, match="table 'f' of policy 'cifar10'"):
        policies.autoaugment("cifar10", table="f", size=SIZE)
    with pytest.raises(ValueError, match="table 'f' of JSON"):
        policies.autoaugment(str(as_json), table="f", size=SIZE)
