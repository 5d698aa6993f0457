"""A plan on a plane: every step has a place of its own, behind what it needs, and no need is lost."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.jobs import Step
from fleet.plan_graph import HEIGHT, MOST_EDGES, REVIEW, WIDTH, Graph, graph_of


def plan(*needs: tuple[str, tuple[str, ...]]) -> list[Step]:
    return [Step(id=id_, needs=needed, prompt="x") for id_, needed in needs]


def assert_drawn(graph: Graph, steps: list[Step]) -> None:
    boxes = {box.step: box for box in graph.boxes}
    assert set(boxes) - {REVIEW} == {step.id for step in steps}
    for one, other in itertools.combinations(graph.boxes, 2):
        apart = abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
        assert apart, f"{one.step} lies on {other.step}"
    for box in graph.boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + WIDTH <= graph.width
        assert box.y + HEIGHT <= graph.height
    for edge in graph.edges:
        assert boxes[edge.source].x + WIDTH < boxes[edge.target].x
        assert edge.path.startswith(f"M{boxes[edge.source].x + WIDTH:.0f} ")
    if not graph.thinned:
        drawn = {(edge.source, edge.target) for edge in graph.edges if edge.target != REVIEW}
        assert drawn == {(need, step.id) for step in steps for need in step.needs}


def test_a_line_of_steps_stands_in_a_row() -> None:
    steps = plan(("a", ()), ("b", ("a",)), ("c", ("b",)))
    graph = graph_of(steps, review=True)
    assert_drawn(graph, steps)
    assert [box.step for box in sorted(graph.boxes, key=lambda box: box.x)] == ["a", "b", "c", REVIEW]
    assert len({box.y for box in graph.boxes}) == 1
    assert [(edge.source, edge.target) for edge in graph.edges] == [("a", "b"), ("b", "c"), ("c", REVIEW)]


def test_a_need_past_a_layer_goes_around_what_stands_there() -> None:
    steps = plan(("a", ()), ("b", ("a",)), ("c", ("a", "b")))
    graph = graph_of(steps, review=False)
    assert_drawn(graph, steps)
    (past,) = [edge for edge in graph.edges if (edge.source, edge.target) == ("a", "c")]
    boxes = {box.step: box for box in graph.boxes}
    # Where it runs straight is its lane.
    lane = float(past.path.split("H")[0].rpartition(" ")[2])
    assert not boxes["b"].y <= lane <= boxes["b"].y + HEIGHT


def test_branches_do_not_cross_where_they_need_not() -> None:
    steps = plan(("a", ()), ("b", ()), ("to_b", ("b",)), ("to_a", ("a",)))
    graph = graph_of(steps, review=False)
    y = {box.step: box.y for box in graph.boxes}
    assert (y["a"] < y["b"]) == (y["to_a"] < y["to_b"])


def test_needs_that_follow_from_others_are_left_out_where_there_are_many() -> None:
    ids = [f"s{i}" for i in range(50)]
    steps = plan(*((id_, tuple(ids[:i])) for i, id_ in enumerate(ids)))
    graph = graph_of(steps, review=True)
    assert_drawn(graph, steps)
    assert graph.thinned
    assert len(graph.edges) == 50 < MOST_EDGES


@st.composite
def plans(draw: st.DrawFn) -> list[Step]:
    count = draw(st.integers(1, 30))
    needs = st.sets(st.integers(0, count), max_size=8)
    return plan(*((f"s{i}", tuple(f"s{need}" for need in draw(needs) if need < i)) for i in range(count)))


@given(plans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_plan_can_be_drawn(steps: list[Step], review: bool) -> None:
    assert_drawn(graph_of(steps, review=review), steps)
