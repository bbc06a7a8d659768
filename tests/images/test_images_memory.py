import os

import pytest

from kdaug_jax.images.memory import memory_limit

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
UNLIMITED = 9223372036854771712


def tree(root, groups, limits):
    """What Linux shows of the control groups of a process."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for place, text in limits.items():
        file = root / "sys/fs/cgroup" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("groups", "limits", "expected"),
    [
        ("0::/\n", {"memory.max": 1 << 20}, 1 << 20),
        ("0::/\n", {"memory.max": "max"}, MACHINE),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": 1 << 21}, 1 << 21),
        ("0::/docker/1\n", {"memory.max": 1 << 22}, 1 << 22),
        ("4:cpu:/a\n3:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": 1 << 23}, 1 << 23),
        ("3:hugetlb,memory:/x\n", {"memory/memory.limit_in_bytes": 1 << 24}, 1 << 24),
        ("3:memory:/\n", {"memory/memory.limit_in_bytes": UNLIMITED}, MACHINE),
        ("3:cpu:/\n", {"memory/memory.limit_in_bytes": 5}, MACHINE),
    ],
)
def test_a_container_limits_memory(tmp_path, groups, limits, expected):
    assert memory_limit(tree(tmp_path, groups, limits)) == expected


def test_without_control_groups_memory_is_the_machines(tmp_path):
    assert memory_limit(tmp_path) == MACHINE
