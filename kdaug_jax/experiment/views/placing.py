"""Where the stages of a view are carried out: while decoding, on the hosts' CPUs, on the devices.

The one place that decides it. What a stage draws depends on (seed, view, stage, draw, epoch,
index) alone, and all forms of the engine give the same bytes, so a place changes no pixel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kdaug_jax.augment.engine import slow_ops
from kdaug_jax.errors import ConfigError
from kdaug_jax.experiment.binding import call_texts
from kdaug_jax.experiment.views.language import LARGEST, ViewSpec, parse, source_of
from kdaug_jax.experiment.views.leading import Prefix
from kdaug_jax.types import Info

# Forms of stages that change one image by itself, and not how many there are.
ALONE = ("example", "batch", "policy")


def goes_on(place: str, platform: str, *, streamed: bool, slow: bool, has_cpu: bool) -> bool:
    """Returns whether the host goes on with a view after its leading part.

    "auto" is the device but for one case: a TPU, a policy with ops that its kernel does not compute
    (`engine.slow_ops`), and images that are streamed. A TPU makes the gathers of such an op one by
    one, some hundred images of 224 pixels a second and chip, where one core of the host augments a
    thousand and decodes fewer than it augments; the images leave the host anyway, and only the
    shape of what is sent changes. A CPU gains nothing by making views on itself, a GPU gathers by
    itself, and data that stay on the devices are not taken from them without being asked.

    Args:
      place: `views.*.place`.
      platform: of the devices, "cpu", "gpu" or "tpu".
      streamed: whether the host sends the images of each step whatever is decided.
      slow: whether a policy has ops that a TPU computes outside its kernel.
      has_cpu: whether JAX has its CPU backend.
    """
    if place != "auto":
        return place == "host"
    return platform == "tpu" and slow and streamed and has_cpu


def with_crops(info: Info, texts: Mapping[str, str], crop: str) -> Info:
    """Returns the facts of a training split, completed by where crops run and what they leave.

    Args:
      info: facts of the training split.
      texts: view expressions by name, in order.
      crop: `data.crop`.

    Returns:
      `info` with `host_crops` and, where images have several sizes, with the size that the leading
      part of the first view gives them.

    Raises:
      ConfigError: images have several sizes, and the device is to crop or a view does not.
    """
    host_crops = bool(info.mixed) or crop == "host"
    if not info.mixed:
        return info._replace(host_crops=host_crops)
    if crop == "device":
        raise ConfigError(
            "data.crop", "'device' takes images of one size, and these have several", "use 'auto'"
        )
    info = info._replace(size=(LARGEST, LARGEST), host_crops=host_crops)
    starts = [name for name, text in texts.items() if source_of(name, text) is None]
    if not starts:  # they start from each other in a circle, which `parse_all` refuses
        return info
    first = starts[0]
    return info._replace(size=parse(first, texts[first], info, trace=False).leading.plan.size)


def unmixed(spec: ViewSpec) -> Prefix | None:
    """Returns the stages that the host can carry out, those of the leading part among them.

    They end before the first stage that mixes, copies or picks rows. None where there are none, or
    where the view starts from another one, whose result it takes.
    """
    if spec.source is not None:
        return None
    count, draws = (spec.leading.calls, spec.leading.draws) if spec.leading else (0, 1)
    while count < len(spec.calls) and spec.calls[count].stage.form in ALONE:
        count += 1
    if not count:
        return None
    done, rest = spec.calls[:count], spec.calls[count:]
    floats = any(call.stage.floats for call in done)
    return Prefix(
        count, draws, rest[0].size if rest else spec.size,
        np.dtype(np.float32 if floats else np.uint8),
    )


def place(
    specs: Sequence[ViewSpec], places: Mapping[str, str], platform: str, *, streamed: bool,
    has_cpu: bool,
) -> tuple[ViewSpec, ...]:
    """Returns views with the stages that the host carries out.

    Args:
      specs: the views.
      places: `views.*.place` by view.
      platform: see `goes_on`.
      streamed: see `goes_on`.
      has_cpu: see `goes_on`.
    """

    def placed(spec: ViewSpec) -> ViewSpec:
        prefix, wanted = unmixed(spec), places[spec.name]
        if prefix is None or prefix == (spec.leading and spec.leading.prefix):
            return spec
        slow = wanted == "auto" and platform == "tpu" and bool(_slow_ops(spec, prefix))
        goes = goes_on(wanted, platform, streamed=streamed, slow=slow, has_cpu=has_cpu)
        return spec._replace(hosted=prefix) if goes else spec

    return tuple(map(placed, specs))


def _slow_ops(spec: ViewSpec, prefix: Prefix) -> list[str]:
    """Returns a line for each op among the stages of a prefix that is slow on a TPU."""
    policies = [
        (call.bound.static["policy"], call.size) for call in spec.calls[: prefix.calls]
        if call.stage.form == "policy"
    ]
    return [
        line for policy, size in policies for line in slow_ops(policy.ops, size, policy.variant)
    ]


def check_place(spec: ViewSpec, wanted: str, platforms: str, *, has_cpu: bool) -> None:
    """Validates that the host can do what a config asks of it.

    Args:
      spec: the view.
      wanted: its `views.*.place`.
      platforms: what JAX_PLATFORMS names, for messages.
      has_cpu: whether the CPU backend is among them.

    Raises:
      ConfigError: the host is asked for, and has no CPU backend or no stage to carry out.
    """
    where = f"views.{spec.name}.place"
    if wanted != "host":
        return
    if not has_cpu:
        raise ConfigError(
            where, f"'host' needs JAX's CPU backend, and JAX_PLATFORMS is '{platforms}'",
            f"set JAX_PLATFORMS={platforms},cpu",
        )
    if spec.source is not None:
        raise ConfigError(
            where, f"'host' cannot be had for a view that starts from view '{spec.source}'",
            f"set views.{spec.source}.place and leave this one out",
        )
    if spec.calls and unmixed(spec) is None:
        raise ConfigError(
            where, f"the host has nothing to do: '{spec.calls[0].role}' comes first, and stages "
            "that mix, copy or pick images run on the devices", "use 'device'",
        )


def describe(specs: Sequence[ViewSpec], texts: Mapping[str, str]) -> dict[str, str]:
    """Returns where the stages of views are carried out, for those that the host has a part in.

    Args:
      specs: the views.
      texts: their expressions, by name.

    Returns:
      By view a text such as "flip|randaugment(2, 9) on the host, cutmix(1.0) on the devices".
    """
    described = {}
    for spec in specs:
        if spec.prefix is None:
            continue
        stages = call_texts(texts[spec.name])
        cut, end = spec.leading.calls if spec.leading else 0, spec.prefix.calls
        parts = {
            "while images are decoded": stages[:cut], "on the host": stages[cut:end],
            "on the devices": stages[end:],
        }
        described[spec.name] = ", ".join(
            f"{'|'.join(stages)} {where}" for where, stages in parts.items() if stages
        )
    return described
