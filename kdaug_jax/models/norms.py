"""Which BatchNorm an activation before the ReLU comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def norm_before(params: Mapping[str, Any], feature: str) -> dict[str, Any] | None:
    """Returns the BatchNorm that makes a feature, or the main path of the sum that is the feature.

    Args:
      params: of a network.
      feature: name of an activation before the ReLU, `f2_pre` or `layer2_pre`, of a ResNet, WRN,
        VGG or ShuffleNet.

    Returns:
      `{"scale", "bias"}`, `[branches,C]`; None where it is not known.
    """
    match = re.fullmatch(r"(?:f|layer)(\d+)_pre", feature)
    if match is None:
        return None
    stage = int(match[1])
    if "block1" in params:  # a WRN: the first BatchNorm of the next group
        group = params.get(f"block{stage + 1}", {"layer_0": params}).get("layer_0", {})
        return group.get("bn1")
    blocks = _numbered(params, rf"layer{stage}_(\d+)")
    if blocks:  # a residual network: the last BatchNorm of the stage's last block
        block = params[blocks[-1]]
        names = _numbered(block, r"bn(\d+)")
        return block[names[-1]] if names else None
    layers = [name for name in _numbered(params, rf"block{stage}_(\d+)") if "scale" in params[name]]
    return params[layers[-1]] if layers else None


def _numbered(params: Mapping[str, Any], pattern: str) -> list[str]:
    """Returns the names that match, in order of their number."""
    matches = [match for match in (re.fullmatch(pattern, name) for name in params) if match]
    return [match[0] for match in sorted(matches, key=lambda match: int(match[1]))]
