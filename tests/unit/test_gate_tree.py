"""The shape of a gate, for every number of members and every width."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queues.gate import tree

MEMBERS = st.integers(min_value=1, max_value=5_000)
WIDTHS = st.integers(min_value=2, max_value=300)


@settings(deadline=None)  # the machine is shared
@given(MEMBERS, WIDTHS)
def test_every_member_is_in_one_leaf_and_no_chord_is_wider_than_allowed(members: int, width: int) -> None:
    plan = tree("r", members, width)
    parents = {parent for parent, _, _ in plan.values()}
    leaves = [size for id_, (_, _, size) in plan.items() if id_ not in parents]
    assert sum(leaves) == members
    assert leaves == [min(width, members - start) for start in range(0, members, width)], "in the members' order"
    assert all(1 <= size <= width for _, _, size in plan.values())


@settings(deadline=None)  # the machine is shared
@given(MEMBERS, WIDTHS)
def test_parents_come_first_and_wait_for_exactly_their_children(members: int, width: int) -> None:
    plan = tree("r", members, width)
    assert next(iter(plan.items()))[0] == "r"
    assert [id_ for id_, (parent, _, _) in plan.items() if parent is None] == ["r"]
    seen: set[str | None] = {None}
    places: dict[str | None, list[int]] = {}
    for id_, (parent, index, _) in plan.items():
        assert parent in seen
        seen.add(id_)
        places.setdefault(parent, []).append(index)
    for id_, (_, _, size) in plan.items():
        assert id_ not in places or sorted(places[id_]) == list(range(size))


def test_as_many_members_as_the_width_need_no_tree() -> None:
    assert tree("r", 3, 3) == {"r": (None, 0, 3)}
    assert tree("r", 4, 3) == {"r": (None, 0, 2), "r/1.0": ("r", 0, 3), "r/1.1": ("r", 1, 1)}


@pytest.mark.parametrize(("members", "width"), [(0, 3), (3, 1)])
def test_a_gate_over_nothing_is_refused(members: int, width: int) -> None:
    with pytest.raises(ValueError, match="at least one member and a width of two"):
        tree("r", members, width)
