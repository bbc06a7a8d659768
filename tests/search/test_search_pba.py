"""Explore, exploit and schedules of population based augmentation, by hand and by statistics."""

import json

import numpy as np
import pytest
from scipy import stats

from kdaug_jax.augment.policies import read_schedule
from kdaug_jax.search import pba
from kdaug_jax.search.pba import Exploit

A, B, C = ((value,) * 60 for value in (1, 2, 3))


def test_explored_numbers_follow_the_specification():
    """0.2 uniform over the range, else a step of 0..3 with either sign, clipped."""
    random, rounds = np.random.RandomState(0), 400
    for start in (0, 5, 9):
        drawn = np.array([pba.explore((start,) * 60, random) for _ in range(rounds)])
        for kind, highest in enumerate((10, 9)):
            expected = np.full(highest + 1, 0.2 / (highest + 1))
            for step in range(4):
                for sign in (-1, 1):
                    expected[np.clip(start + sign * step, 0, highest)] += 0.8 / 8
            counts = np.bincount(drawn[:, kind::2].ravel(), minlength=highest + 1)
            assert stats.chisquare(counts, expected * counts.sum()).pvalue > 1e-3


def test_numbers_are_explored_independently():
    drawn = np.array([pba.explore((5,) * 60, np.random.RandomState(n)) for n in range(2000)])
    correlations = np.corrcoef(drawn.T)[np.triu_indices(60, 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(2000)


@pytest.mark.parametrize("members, count", [(2, 1), (3, 1), (4, 1), (5, 2), (8, 2), (16, 4)])
def test_a_quarter_rounded_up_is_replaced(members, count):
    worst, best = pba.quarters({member: float(member) for member in range(members)})
    assert worst == list(range(count)) and best == list(range(members - count, members))


def test_ranks_by_score_then_by_number():
    worst, best = pba.quarters({0: 0.5, 1: 0.5, 2: 0.9, 3: 0.1, 4: 0.5})
    assert worst == [3, 0] and best == [4, 2]


@pytest.mark.parametrize("scores", [{}, {3: 0.5}])
def test_a_lone_member_copies_nobody(scores):
    assert pba.exploit(scores, [A] * 4, 3, 0) == []


def test_failed_members_take_no_part():
    """They have no score; only 1 and 3 are left."""
    (event,) = pba.exploit({1: 0.2, 3: 0.4}, [A, B, A, C], 3, 0)
    assert (event.epoch, event.target, event.source) == (3, 1, 3)


def test_sources_are_uniform_over_the_best_quarter():
    scores = {member: float(member) for member in range(16)}
    sources = [
        event.source for seed in range(400) for event in pba.exploit(scores, [A] * 16, 3, seed)
    ]
    counts = np.bincount(sources, minlength=16)
    assert not counts[:12].any() and stats.chisquare(counts[12:]).pvalue > 1e-3


def test_decisions_are_a_function_of_seed_epoch_and_member():
    scores = {member: float(member) for member in range(4)}
    first = pba.exploit(scores, [A] * 4, 3, 7)
    assert first == pba.exploit(dict(reversed(scores.items())), [A] * 4, 3, 7)
    assert first[0].policy != pba.exploit(scores, [A] * 4, 6, 7)[0].policy
    assert first[0].policy != pba.exploit(scores, [A] * 4, 3, 8)[0].policy


# Member 1 copies 0 after epoch 3; member 2 copies 1 after epoch 6 while 1 copies 3; nobody then.
EVENTS = [Exploit(3, 1, 0, A), Exploit(6, 2, 1, B), Exploit(6, 1, 3, C)]


def test_histories_by_hand():
    zero = pba.START
    assert pba.histories(EVENTS, 4) == [
        [(0, zero)], [(0, zero), (6, C)], [(0, zero), (3, A), (6, B)], [(0, zero)],
    ]
    assert pba.policies(EVENTS, 4) == [zero, C, B, zero]


def test_copies_of_an_epoch_are_simultaneous():
    """2 copies what 1 was before 1 copied 3, in whatever order they are listed."""
    swapped = [EVENTS[0], EVENTS[2], EVENTS[1]]
    assert pba.histories(swapped, 4) == pba.histories(EVENTS, 4)
    assert pba.lineage(swapped, 2) == pba.lineage(EVENTS, 2) == [(0, 0), (3, 1), (6, 2)]


def test_the_winner_has_the_highest_final_score():
    assert pba.winner({0: 0.3, 2: 0.7, 3: 0.7}) == 2


def test_schedule_of_the_winner_by_hand():
    parts = pba.segments(EVENTS, 4, 2, 10)
    assert parts == [(3, pba.START), (3, A), (4, B)]
    assert pba.segments(EVENTS, 4, 0, 10) == [(10, pba.START)]


@pytest.mark.parametrize("epochs, lengths", [
    (10, (3, 3, 4)), (90, (27, 27, 36)), (7, (2, 2, 3)), (13, (3, 3, 7)), (1, (0, 0, 1)),
])
def test_a_schedule_is_replayed_at_another_length(tmp_path, epochs, lengths):
    """A segment of n of 10 epochs lasts ⌊n E'/10⌋ of E', and the last one what remains."""
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(pba.as_schedule(pba.segments(EVENTS, 4, 2, 10), "by hand")))
    table = read_schedule(str(file), epochs)
    np.testing.assert_array_equal(table, np.repeat([pba.START, A, B], lengths, axis=0))
