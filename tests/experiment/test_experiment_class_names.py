"""The order of a teacher's classes is compared by name, and changed only on request."""

import itertools

import pytest

from kdaug_jax.experiment.frozen.class_names import Difference, difference, order_by_name

COUNTED = tuple(map(str, range(12)))
AS_TEXT = tuple(sorted(COUNTED))


@pytest.mark.parametrize(("theirs", "ours"), [
    ((), ("a", "b")),
    (("Apple", "red_bee"), ("apple", "Red bee")),
    (("St. Bernard", "don't"), ("st bernard", "dont")),
    (("0", "1", "2"), ("ant", "bee", "cat")),  # one side has no names
    (("ant", "bee", "cat"), ("0", "1", "2")),
    (("00", "01", "02"), ("0", "1", "2")),
    (("1", "2", "3"), ("0", "1", "2")),  # numbers from 1, in the same order
    (("cafe\u0301", "x"), ("caf\u00e9", "x")),
    (("A", "a"), ("A", "a")),
])  # fmt: skip
def test_equal_classes(theirs, ours):
    assert difference(theirs, ours) is None


@pytest.mark.parametrize(("theirs", "ours", "expected"), [
    (COUNTED, AS_TEXT, Difference(2, True)),
    (AS_TEXT, COUNTED, Difference(2, True)),
    # From 1 in the order of texts: 1, 10, 11, 12, 2, …
    (COUNTED, tuple(sorted(map(str, range(1, 13)))), Difference(1, True)),
    (("a", "A"), ("A", "a"), Difference(0, True)),
    (("+", "-"), ("-", "+"), Difference(0, True)),
    (("c+", "d"), ("c-", "d"), Difference(0, False)),
    (("-1", "0"), ("1", "0"), Difference(0, False)),
    (("1.5", "2"), ("15", "2"), Difference(0, False)),
    (("ant", "bee"), ("ant", "cow"), Difference(1, False)),
    (("ant", "bee"), ("ant",), Difference(-1, False)),
    (("1", "3"), ("2", "4"), Difference(0, False)),
    (("m\u00b2", "m2"), ("m2", "m\u00b2"), Difference(0, True)),
])  # fmt: skip
def test_other_classes(theirs, ours, expected):
    assert difference(theirs, ours) == expected


def test_order_by_name():
    names = ("ant", "red bee", "cat", "A")
    for order in itertools.permutations(range(4)):
        ours = [names[number].replace(" ", "_") for number in order]
        assert order_by_name(names, ours) == order
    assert order_by_name(COUNTED, AS_TEXT)[2] == 10
    assert order_by_name(("a", "b"), ("a", "c")) == ()
    assert order_by_name(("a", "a"), ("a", "a")) == ()  # names that are no names
