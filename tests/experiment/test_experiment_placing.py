"""Where the stages of a view are carried out: who decides it, and what is refused."""

import itertools

import numpy as np
import pytest

from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment import views
from kdaug_jax.experiment.views.placing import goes_on
from kdaug_jax.types import Info

INFO = Info(4, (12, 17), np.zeros(8, np.int32), (1.0,) * 3, (1.0,) * 3)
# A row of the op table that the kernel for TPUs does not compute.
SLOW, FAST = "tests.experiment.parts_of_a_user.halving", "randaugment(2, 9)"


def parsed(text, crop="auto", **others):
    texts = {**others, "x": text}
    specs = views.parse_all(texts, views.with_crops(INFO, texts, crop))
    return next(spec for spec in specs if spec.name == "x")


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize(
    "streamed, slow, has_cpu", list(itertools.product([True, False], repeat=3))
)
def test_what_is_asked_for_is_done_and_auto_spares_a_tpu_slow_ops(
    platform, streamed, slow, has_cpu
):
    known = dict(streamed=streamed, slow=slow, has_cpu=has_cpu)
    assert goes_on("host", platform, **known)
    assert not goes_on("device", platform, **known)
    expected = platform == "tpu" and streamed and slow and has_cpu
    assert goes_on("auto", platform, **known) == expected


@pytest.mark.parametrize("text, crop, expected", [
    ("pad_crop(4)|flip", "auto", (2, 1, (12, 17), np.uint8)),
    ("pad_crop(4)|flip|mixup(0.2)|repeat(2)", "auto", (2, 1, (12, 17), np.uint8)),
    ("flip|repeat(2)|flip", "auto", (1, 1, (12, 17), np.uint8)),
    ("resize(8, 6)|flip|cutmix(1.0)", "auto", (2, 1, (8, 6), np.uint8)),
    ("flip|efficientnet_crop(6, 2)|mixup(0.2)", "auto", (2, 1, (6, 6), np.float32)),
    ("repeat(3)|resize(8, 6)|flip|mixup(0.2)", "host", (3, 3, (8, 6), np.uint8)),
    ("repeat(3)|resize(8, 6)|flip", "auto", None),
    ("mixup(0.2)|cutmix(1.0)", "auto", None),
    ("", "auto", None),
    ('view("y")|flip', "auto", None),
])
def test_the_host_ends_where_images_are_mixed_or_counted(text, crop, expected):
    others = {"y": "flip"} if "view" in text else {}
    assert views.unmixed(parsed(text, crop, **others)) == expected


@pytest.mark.parametrize("text, platform, streamed, hosted", [
    (f"flip|{SLOW}|mixup(0.2)", "tpu", True, 2),
    (f"flip|{SLOW}|mixup(0.2)", "tpu", False, None),
    (f"flip|{SLOW}|mixup(0.2)", "gpu", True, None),
    (f"flip|{FAST}|mixup(0.2)", "tpu", True, None),
    (f"repeat(2)|{SLOW}", "tpu", True, None),
])
def test_auto_looks_at_the_ops_of_the_stages_that_the_host_can_do(
    text, platform, streamed, hosted
):
    (spec,) = views.place(
        (parsed(text),), {"x": "auto"}, platform, streamed=streamed, has_cpu=True
    )
    assert (spec.hosted and spec.hosted.calls) == hosted


@pytest.mark.parametrize("text, platforms, message", [
    ("flip", "tpu", "views.x.place: 'host' needs JAX's CPU backend, and JAX_PLATFORMS is 'tpu'; "
     "set JAX_PLATFORMS=tpu,cpu"),
    ('view("y")|flip', "", "views.x.place: 'host' cannot be had for a view that starts from view "
     "'y'; set views.y.place and leave this one out"),
    ("mixup(0.2)", "", "views.x.place: the host has nothing to do: 'mixup' comes first"),
    ("repeat(2)|flip", "", "views.x.place: the host has nothing to do: 'repeat' comes first"),
])
def test_what_the_host_cannot_do_is_told(text, platforms, message):
    spec = parsed(text, **({"y": "flip"} if "view" in text else {}))
    has_cpu = platforms != "tpu"
    with pytest.raises(ConfigError) as error:
        views.check_place(spec, "host", platforms, has_cpu=has_cpu)
    assert message in str(error.value)
    for place in ("auto", "device"):
        views.check_place(spec, place, platforms, has_cpu=has_cpu)


def test_stored_images_may_be_placed_anywhere():
    views.check_place(parsed(""), "host", "", has_cpu=True)


def test_who_makes_what_is_described():
    texts = {
        "a": "resize(8, 6)|flip|mixup(0.2)", "b": "flip|randaugment(2, 9)", "c": "resize(8, 8)",
        "d": 'view("b")|cutout(4)', "e": "",
    }
    specs = views.parse_all(texts, views.with_crops(INFO, texts, "host"))
    places = dict.fromkeys(texts, "device") | {"a": "host", "b": "host"}
    placed = views.place(specs, places, "gpu", streamed=True, has_cpu=True)
    assert views.describe(placed, texts) == {
        "a": "resize(8, 6) while images are decoded, flip on the host, mixup(0.2) on the devices",
        "b": "flip|randaugment(2, 9) on the host",
        "c": "resize(8, 8) while images are decoded",
    }
