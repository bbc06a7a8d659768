"""Population based augmentation: explore, exploit and the schedule of a winner, as pure functions.

All members train in lock step. After each interval the worst quarter copies the states of members
of the best quarter and goes on with explored versions of their policies. What has happened is a
list of exploits; policies, lineage and schedule are computed from it.

Source: Ho et al. 2019 (PBA); `explore` of pba/augmentation_transforms_hp.py and the synchronous
form of Ray's population based training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdaug_jax.augment.policies.pba import HIGHEST_MAGNITUDE, HIGHEST_TENTHS, LENGTH

# Of each number of a policy: its largest value; probabilities and magnitudes take turns.
HIGHEST = np.tile([HIGHEST_TENTHS, HIGHEST_MAGNITUDE], LENGTH // 2)
RESAMPLED = 0.2  # probability that a number is drawn anew
LARGEST_CHANGE = 3  # of a number that is not drawn anew
# Every member's first policy, which applies nothing.
START = (0,) * LENGTH


class Exploit(NamedTuple):
    """One member took over the state of another.

    Attributes:
      epoch: after how many epochs.
      target: number of the member whose state was replaced.
      source: number of the member whose state was copied.
      policy: 60 whole numbers with which the target goes on.
    """

    epoch: int
    target: int
    source: int
    policy: tuple[int, ...]


def explore(policy: Sequence[int], random: np.random.RandomState) -> tuple[int, ...]:
    """Returns a changed policy.

    Each number by itself is drawn uniformly from its range with probability 0.2; else 0 to 3 is
    added or subtracted, with equal probabilities, and the result is clipped to the range.

    Args:
      policy: 60 whole numbers, see `augment.policies.pba`.
      random: source of the draws.

    Returns:
      60 whole numbers.

    Source: Ho et al. 2019 (PBA), Algorithm 1.
    """
    anew = random.random_sample(LENGTH) < RESAMPLED
    uniform = np.floor(random.random_sample(LENGTH) * (HIGHEST + 1)).astype(int)
    amount = random.randint(0, LARGEST_CHANGE + 1, LENGTH)
    sign = 2 * random.randint(0, 2, LENGTH) - 1
    moved = np.clip(np.asarray(policy) + sign * amount, 0, HIGHEST)
    return tuple(np.where(anew, uniform, moved).tolist())


def quarters(scores: Mapping[int, float]) -> tuple[list[int], list[int]]:
    """Returns the members of the worst and of the best quarter, ⌈n/4⌉ each.

    Args:
      scores: by member, of those that have not failed; higher is better. Of equal scores the
        member of the lower number counts as worse.

    Returns:
      The worst ones, then the best ones, each from worse to better; both empty for fewer than two.
    """
    if len(scores) < 2:
        return [], []
    ranked = sorted(scores, key=lambda member: (scores[member], member))
    count = math.ceil(len(ranked) / 4)
    return ranked[:count], ranked[-count:]


def exploit(
    scores: Mapping[int, float], policies: Sequence[Sequence[int]], epoch: int, seed: int
) -> list[Exploit]:
    """Decides which members copy which, and with what policies these go on.

    Args:
      scores: see `quarters`.
      policies: of all members, by number.
      epoch: epochs so far.
      seed: of the search. Draws are a function of it, of the epoch and of the member.

    Returns:
      One exploit for each member of the worst quarter; its source is drawn uniformly from the best
      quarter.
    """
    worst, best = quarters(scores)
    exploits = []
    for target in worst:
        # Its stream is frozen, so that a search is resumed exactly with any version of NumPy.
        random = np.random.RandomState([seed, epoch, target])
        source = best[random.randint(len(best))]
        exploits.append(Exploit(epoch, target, source, explore(policies[source], random)))
    return exploits


def histories(exploits: Sequence[Exploit], members: int) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Returns what the state of each member has been trained with.

    Args:
      exploits: all so far, in order.
      members: how many there are.

    Returns:
      For each member pairs of (first epoch, policy), in order, beginning at epoch 0: the history of
      the member that it copied last, then its own.
    """
    result = [[(0, START)] for _ in range(members)]
    for epoch in sorted({event.epoch for event in exploits}):
        before = [list(history) for history in result]
        for event in exploits:
            if event.epoch == epoch:
                result[event.target] = [*before[event.source], (epoch, event.policy)]
    return result


def policies(exploits: Sequence[Exploit], members: int) -> list[tuple[int, ...]]:
    """Returns the policy with which each member goes on.

    Args:
      exploits: all so far, in order.
      members: how many there are.
    """
    return [history[-1][1] for history in histories(exploits, members)]


def lineage(exploits: Sequence[Exploit], member: int) -> list[tuple[int, int]]:
    """Returns which members' places the state of a member has passed through.

    Args:
      exploits: all so far, in order.
      member: where it is now.

    Returns:
      Pairs of (first epoch, member), in order, beginning at epoch 0.
    """
    chain: list[tuple[int, int]] = []
    for event in reversed(exploits):
        if event.target == member and (not chain or event.epoch < chain[-1][0]):
            chain.append((event.epoch, member))
            member = event.source
    return [(0, member), *reversed(chain)]


def winner(scores: Mapping[int, float]) -> int:
    """Returns the member with the highest final score; of equal ones the lowest number.

    Args:
      scores: by member, of those that have not failed; at least one.
    """
    return min(scores, key=lambda member: (-scores[member], member))


def segments(
    exploits: Sequence[Exploit], members: int, member: int, epochs: int
) -> list[tuple[int, tuple[int, ...]]]:
    """Extracts the schedule that the state of a member was trained with.

    Args:
      exploits: all of the search, in order.
      members: how many there are.
      member: the winner.
      epochs: of the search.

    Returns:
      Pairs of (epochs, policy), in order, whose epochs sum to `epochs`.
    """
    history = histories(exploits, members)[member]
    ends = [start for start, _ in history[1:]] + [epochs]
    return [
        (end - start, policy) for (start, policy), end in zip(history, ends, strict=True)
    ]


def as_schedule(
    parts: Sequence[tuple[int, Sequence[int]]], source: str
) -> dict[str, Any]:
    """Returns the content of a schedule file, which the stage `schedule("FILE")` reads.

    Args:
      parts: what `segments` returned.
      source: where it comes from, any text.
    """
    return {"segments": [[epochs, list(policy)] for epochs, policy in parts], "source": source}
