import inspect

import jax
import numpy as np

from kdaug_jax import augment, data, rng
from kdaug_jax.experiment import config as configs
from kdaug_jax.experiment.phases import build_programs
from kdaug_jax.types import Clock
from tests.conftest import tiny_config

# Every role of the program below. Runs and stored teacher outputs depend on each letter of them.
ROLES = [
    "apply",
    "batch/network/peer/weak+mixed",
    "batch/network/student/weak+strong+mixed",
    "batch/terms/ce",
    "batch/terms/hint",
    "batch/terms/kd",
    "batch/terms/peer_ce",
    "batch/view/mixed/cutmix",
    "batch/view/mixed/mixup",
    "batch/view/mixed/pick/peer",
    "batch/view/mixed/pick/student",
    "box",
    "example/view/strong",
    "example/view/weak",
    "flip",
    "init/networks/peer",
    "init/networks/student",
    "init/terms/ce",
    "init/terms/hint",
    "init/terms/kd",
    "init/terms/peer_ce",
    "lam",
    "op",
    "pad_crop",
    "pad_crop_1",
    "partner",
    "place",
    "randaugment",
    "sign",
]


def clock(seed=0, epoch=0, step=0):
    return Clock(np.uint32(seed), np.int32(epoch), np.int32(step))


def bits(keys):
    return np.asarray(jax.random.key_data(keys))


def test_keys_are_pinned():
    """Stored teacher outputs are only valid as long as these numbers stay."""
    keys = rng.example_keys(clock(1, 2, 3), "view/x", np.arange(2))
    assert bits(keys).tolist() == [[2985742842, 1887861171], [2417519894, 3234983010]]
    assert bits(rng.batch_key(clock(1, 2, 3), "mix")).tolist() == [2510924777, 555483254]


def test_example_keys_depend_on_seed_role_epoch_and_index():
    index = np.arange(5, dtype=np.int32)
    base = bits(rng.example_keys(clock(), "view/x", index))
    assert len({tuple(row) for row in base.tolist()}) == 5
    np.testing.assert_array_equal(base[3:], bits(rng.example_keys(clock(), "view/x", index[3:])))
    np.testing.assert_array_equal(base, bits(rng.example_keys(clock(step=9), "view/x", index)))
    for other in (clock(seed=1), clock(epoch=1)):
        assert not (bits(rng.example_keys(other, "view/x", index)) == base).any()
    assert not (bits(rng.example_keys(clock(), "view/y", index)) == base).any()


def test_batch_keys_depend_on_the_step():
    keys = {tuple(bits(rng.batch_key(clock(0, 0, step), "mix")).tolist()) for step in range(4)}
    assert len(keys) == 4


def test_seeds_use_all_32_bits():
    assert bits(rng.root(2**32 - 1)).tolist() != bits(rng.root(2**31 - 1)).tolist()


def test_folding_works_on_any_shape():
    keys = jax.random.split(jax.random.key(0), (2, 3))
    np.testing.assert_array_equal(bits(rng.fold(keys, "a"))[1, 2], bits(rng.fold(keys[1, 2], "a")))


def test_random_wrappers_take_the_key_first():
    for stage in augment.STAGES.values():
        if stage.form == "policy":  # builds what draws, and draws nothing
            continue
        assert next(iter(inspect.signature(stage.apply).parameters)) in ("key", "keys")


def everything_that_draws():
    """Views with a stage twice, group stages, copies and a pick; two networks; terms."""
    pick = 'pick("kl", student="student", teacher="peer")'
    both = {"student": "student", "teacher": "peer"}
    return tiny_config(
        views={
            "weak": "pad_crop(1)|flip|pad_crop(2)",
            "strong": dict(ops='view("weak")|randaugment(2, 3)', branch=1),
            "mixed": f'view("weak")|repeat(2)|mixup(1.0)|cutmix|{pick}',
        },
        networks={name: configs.network("tiny", trainable=True) for name in ("student", "peer")},
        terms={
            "ce": configs.term("cross_entropy", ("weak", "strong", "mixed")),
            "peer_ce": configs.term("cross_entropy", ("weak",), student="peer"),
            "kd": configs.term("kl", ("mixed",), **both),
            "hint": configs.term("fitnet", ("weak",), features=("f1",), **both),
        },
        train=dict(replica_batch_size=4),
    )


def test_role_strings_are_frozen(monkeypatch):
    info = data.describe(
        data.load("synthetic:8x8,4,40", {name: name for name in ("train", "validation", "test")})
    )
    (program,) = build_programs(everything_that_draws(), info)
    roles, fold = set(), rng.fold

    def recording(key, role):
        roles.add(role)
        return fold(key, role)

    monkeypatch.setattr(rng, "fold", recording)
    program.check_terms()  # initialises and makes one step of everything, by shapes alone
    assert sorted(roles) == ROLES
