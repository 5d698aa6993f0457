"""A plan as a graph on a plane: which step stands where, and how the needs run between them.

Pure functions of steps, in layers from left to right (after Sugiyama, Tagawa and Toda, 1981): a step stands one layer behind
the last of its needs, what runs past a layer has a lane of its own there, and the order in a layer follows the neighbours'.
It owns places and lengths, in pixels; how a step looks is for the page to know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fleet.jobs import Step, in_order
from fleet.packing import terminal_steps

#: The step that a review is shown as; no step can be called so.
REVIEW = "review."
WIDTH, HEIGHT = 184, 62
GAP_X, GAP_Y, MARGIN = 56, 20, 2
#: Height of the lane of a need that runs past a layer.
LANE = 14
#: With more needs than this, those that follow from others are not drawn.
MOST_EDGES = 120
SWEEPS = 6

#: A step, or the lane of an edge in a layer: (the step it leads from, the step it leads to).
Node = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class Box:
    """Where a step stands: its upper left corner."""

    step: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Edge:
    """A need: `path` is that of an SVG path, from the step that is needed to the one that needs it."""

    source: str
    target: str
    path: str


@dataclass(frozen=True, slots=True)
class Graph:
    """A plan, drawn."""

    width: float
    height: float
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    #: Some needs that follow from others are not drawn.
    thinned: bool


def graph_of(steps: Sequence[Step], *, review: bool) -> Graph:
    """The graph of a plan; `review`: with the review at its end."""
    needs = {step.id: list(step.needs) for step in in_order({step.id: step for step in steps})}
    if review:
        needs[REVIEW] = sorted(terminal_steps(list(needs.items())))
    edges = sum(len(of_one) for of_one in needs.values())
    thinned = edges > MOST_EDGES
    if thinned:
        needs = _thinned(needs)
    layer = _layers(needs)
    chains: dict[tuple[str, str], list[Node]] = {
        (need, step): [need, *((need, step) for _ in range(layer[need] + 1, layer[step])), step]
        for step, of_one in needs.items()
        for need in of_one
    }
    columns = _ordered(layer, chains)
    tops, height = _tops(columns)

    def middle(node: Node, column: int) -> float:
        return tops[column, node] + (HEIGHT if isinstance(node, str) else LANE) / 2

    def left(column: int) -> float:
        return MARGIN + column * (WIDTH + GAP_X)

    def path(chain: Sequence[Node]) -> str:
        column = layer[str(chain[0])]
        y = middle(chain[0], column)
        drawn = f"M{left(column) + WIDTH:.0f} {y:.1f}"
        for at, node in enumerate(chain[1:], start=column + 1):
            begin, end, to = left(at) - GAP_X, left(at), middle(node, at)
            drawn += f"C{begin + GAP_X / 2:.0f} {y:.1f} {end - GAP_X / 2:.0f} {to:.1f} {end:.0f} {to:.1f}"
            if not isinstance(node, str):
                drawn += f"H{end + WIDTH:.0f}"
            y = to
        return drawn

    return Graph(
        width=left(max(layer.values(), default=0)) + WIDTH + MARGIN,
        height=height,
        boxes=tuple(Box(step, left(layer[step]), tops[layer[step], step]) for step in needs),
        edges=tuple(Edge(source, target, path(chain)) for (source, target), chain in chains.items()),
        thinned=thinned,
    )


def _thinned(needs: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Needs without those that others lead to anyway."""
    behind: dict[str, set[str]] = {}
    for step, of_one in needs.items():
        behind[step] = set(of_one).union(*(behind[need] for need in of_one))
    return {
        step: [need for need in of_one if not any(need in behind[other] for other in of_one)]
        for step, of_one in needs.items()
    }


def _layers(needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    layer: dict[str, int] = {}
    for step, of_one in needs.items():
        layer[step] = max((layer[need] + 1 for need in of_one), default=0)
    return layer


def _ordered(layer: Mapping[str, int], chains: Mapping[tuple[str, str], Sequence[Node]]) -> list[list[Node]]:
    """The nodes of each layer from top to bottom, so that few needs cross."""
    columns: list[list[Node]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for step, column in layer.items():
        columns[column].append(step)
    before: dict[tuple[int, Node], list[Node]] = {}
    after: dict[tuple[int, Node], list[Node]] = {}
    for (source, target), chain in chains.items():
        for column, node in enumerate(chain[1:-1], start=layer[source] + 1):
            columns[column].append(node)
        for column, node in enumerate(chain, start=layer[source]):
            if node != source:
                before.setdefault((column, node), []).append(chain[column - layer[source] - 1])
            if node != target:
                after.setdefault((column, node), []).append(chain[column - layer[source] + 1])
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        order = range(1, len(columns)) if forth else range(len(columns) - 2, -1, -1)
        for column in order:
            beside = {node: place for place, node in enumerate(columns[column - 1 if forth else column + 1])}
            links = before if forth else after
            places = {node: place for place, node in enumerate(columns[column])}

            def weight(
                node: Node,
                links: Mapping[tuple[int, Node], list[Node]] = links,
                column: int = column,
                beside: Mapping[Node, int] = beside,
                places: Mapping[Node, int] = places,
            ) -> float:
                near = [beside[other] for other in links.get((column, node), [])]
                return sum(near) / len(near) if near else places[node]

            columns[column].sort(key=weight)
    return columns


def _tops(columns: Sequence[Sequence[Node]]) -> tuple[dict[tuple[int, Node], float], float]:
    """Where each node begins, its layer set in the middle of the drawing; and the height of that."""
    sizes = [[HEIGHT if isinstance(node, str) else LANE for node in column] for column in columns]
    heights = [sum(column) + GAP_Y * max(len(column) - 1, 0) for column in sizes]
    tallest = max(heights, default=0)
    tops: dict[tuple[int, Node], float] = {}
    for number, column in enumerate(columns):
        y = MARGIN + (tallest - heights[number]) / 2
        for node, size in zip(column, sizes[number], strict=True):
            tops[number, node] = y
            y += size + GAP_Y
    return tops, tallest + 2 * MARGIN
