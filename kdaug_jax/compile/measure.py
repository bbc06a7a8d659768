"""Compiles a program for devices that are not there, and reads what the compiler says of it."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax

from kdaug_jax.compile import flops, hlo
from kdaug_jax.compile.programs import Work
from kdaug_jax.compile.topologies import Chip

# Kernels of GPU programs are tried out on the device unless this is 0, and there is none.
_OPTIONS = {"gpu": {"xla_gpu_autotune_level": 0}}


class Memory(NamedTuple):
    """Bytes of a device.

    Attributes:
      arguments: what the call is given, in the device's layout.
      results: what does not take the place of an argument.
      temporaries: most at any time.
      code: of the program.
      beside: what lies there too meanwhile.
    """

    arguments: int
    results: int
    temporaries: int
    code: int
    beside: int


class Measured(NamedTuple):
    """What a compiler says of a program.

    Attributes:
      work: the program.
      flops: of a call, over all devices.
      memory: None where the program did not fit.
      profile: of a call on a device, None where the program did not fit.
      refusal: the compiler's reason, where the program did not fit.
    """

    work: Work
    flops: int
    memory: Memory | None
    profile: hlo.Profile | None
    refusal: str = ""

    def seconds(self, chip: Chip) -> float | None:
        """Estimates the time of one step; None where the compiler estimates no cycles."""
        if chip.clock is None or self.profile is None or not self.profile.cycles:
            return None
        return self.profile.all_cycles / chip.clock / self.work.steps


def measure(work: Work, platform: str) -> Measured:
    """Compiles a program.

    Args:
      work: the program and its arguments.
      platform: of the devices that it is for.
    """
    traced = work.function.trace(*work.arguments)
    counted = flops.count(traced.jaxpr)
    try:
        compiled = traced.lower().compile(compiler_options=_OPTIONS.get(platform, {}))
        beside = _argument_bytes(work.beside)
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        return Measured(work, counted, None, None, reason(str(error)))
    sizes = compiled.memory_analysis()
    memory = Memory(
        sizes.argument_size_in_bytes, sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        sizes.temp_size_in_bytes, sizes.generated_code_size_in_bytes, beside,
    )
    return Measured(work, counted, memory, hlo.profile(compiled.as_text()))


def reason(message: str) -> str:
    """Returns the sentence of a compiler's message that says how much memory is missing."""
    text = " ".join(message.removeprefix("RESOURCE_EXHAUSTED:").split())
    sentences = re.split(r"(?<=[A-Za-z).])\. |(?<=\.) (?=[A-Z])", text)
    told = (sentence for sentence in sentences if re.search(r"\d[KMGT]i?B?\b", sentence))
    return next(told, sentences[0]).rstrip(".") + "."


def _argument_bytes(tree: Any) -> int:
    """Returns what arrays take on a device, padding of its layout included."""
    if not jax.tree.leaves(tree):
        return 0
    nothing = jax.jit(lambda arrays: (), keep_unused=True)
    return nothing.lower(tree).compile().memory_analysis().argument_size_in_bytes
