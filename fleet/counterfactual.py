"""What a job's work would have cost on the flagship alone, from the entries of its ledger, and how the saving splits.

It owns what an entry is compared with (`compared`), what of a ledger is work that the flagship would have done, and the order
in which a saving is cut. It knows no store and, but for `compared`, no price; `fleet.ratios` knows the statistics. The same
entries in any order give the same figures, to the nano-dollar.

Of each accepted subtask the tokens count at the flagship's price, at once and with nothing cached: the input of its first
call (what a tier above is shown of rejected answers the flagship alone would not see) and the output of the accepted one.
That is multiplied by how much more or less the flagship spends on such work, rejected answers included: as measured by the
job's holdout (`fleet.holdout`); without one, as in subtasks of the same kind that began on the flagship; without these, 1.
Of an answer that an audit found wrong, that counts as long as nothing better came: it was accepted, and is what the user has.
Subtasks that failed count nothing. Plans and reviews are on both sides.

saving = alone - cost is cut in this order, so that the parts add up to it: `caching` is what cached input took off the price
in its own lane; `lanes` is what the lane took off the standard price after that; `routing` is the rest, in which all that the
flagship alone would not need (escalations, lost calls, checks, audits, the holdout) is a cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Literal

from fleet.config import FLAGSHIP, FleetConfig, Frozen
from fleet.errors import BadInputError
from fleet.ledger import Compared, LedgerEntry
from fleet.price_list import STANDARD
from fleet.prices import Usage, tariff
from fleet.ratios import SAME, Asked, Pair, Ratio, Work, from_others, from_sample, total

#: Roles that the flagship alone would have, too.
AS_THEY_WERE = ("plan", "review", "reduce")

#: `itself`: the flagship did that work.
Basis = Literal["holdout", "others", "assumed", "itself"]
#: Kind and tier.
Group = tuple[str, str]
Moment = tuple[float, str]


class Measured(Frozen):
    """What the flagship was taken to spend on one kind of work that one tier did."""

    kind: str
    tier: str
    basis: Basis
    #: Accepted subtasks.
    accepted: int
    #: Subtasks that the flagship was asked: of these in a holdout, else others of the kind; and those it passed the check with.
    asked: int = 0
    passed: int = 0
    #: What an answer of it costs in input and output, to what the tier's tokens cost at its price; and the share that passes.
    input_ratio: float = 1.0
    output_ratio: float = 1.0
    passing: float = 1.0


class Savings(Frozen):
    """What the fleet cost less than the flagship alone would have, in nano-dollars; a part below 0 cost more."""

    routing: int
    lanes: int
    caching: int


class Comparison(Frozen):
    """A job beside the flagship alone. Amounts are nano-dollars."""

    #: The sentence that says how it was estimated, or why it was not.
    estimate: str
    #: None where a price that it takes is not known.
    alone: int | None = None
    #: 95 %; None where nothing was measured.
    interval: tuple[int, int] | None = None
    savings: Savings | None = None
    measured: tuple[Measured, ...] = ()


@dataclass(slots=True)
class _Subtask:
    """The answers of a subtask. Moments order the calls, so entries may come in any order."""

    kind: str = ""
    #: Moment, tier, and the input (of the first) or output (of the accepted one) at the flagship's price.
    first: tuple[Moment, str, int] | None = None
    accepted: tuple[Moment, str, int] | None = None
    #: What the flagship's own answers come to.
    on_flagship: Pair = (0, 0)
    #: Moment, cost, and whether it passed.
    asked: tuple[Moment, Pair, bool] | None = None

    @property
    def size(self) -> Pair:
        return (self.first[2] if self.first else 0, self.accepted[2] if self.accepted else 0)


class Counterfactual:
    """Takes in a ledger, entry by entry, each once and in any order. Memory grows with the subtasks, not with the calls."""

    def __init__(self) -> None:
        self._subtasks: dict[str, _Subtask] = {}
        self._cost = self._listed = self._caching = self._as_they_were = self._unknown = 0

    def add(self, entry: LedgerEntry) -> None:
        """Count an entry."""
        its = entry.compared or Compared()
        listed = entry.cost_nano_usd + its.cache_saved + its.lane_saved
        self._cost += entry.cost_nano_usd
        self._caching += its.cache_saved
        self._listed += listed
        self._as_they_were += listed * (entry.role in AS_THEY_WERE)
        if entry.subtask is None or entry.status == "failed" or not (entry.role == "work" or entry.holdout):
            return
        moment, passed = (entry.started_at, entry.call_id), entry.status == "ok"
        # What an audit found wrong was accepted, and is what the user has unless something better, which is later, came.
        stands = passed or entry.flaw == "audit"
        size = (its.flagship_input, its.flagship_output)
        subtask = self._subtasks.setdefault(entry.subtask, _Subtask())
        if entry.holdout:
            if subtask.asked is None or moment > subtask.asked[0]:
                subtask.asked = (moment, size, passed)
            return
        if entry.tier == FLAGSHIP:
            subtask.on_flagship = (subtask.on_flagship[0] + size[0], subtask.on_flagship[1] + size[1])
        if subtask.first is None or moment < subtask.first[0]:
            subtask.first, subtask.kind = (moment, intern(entry.tier), size[0]), intern(entry.kind or entry.step or "")
        self._unknown += stands and entry.compared is None
        if stands and (subtask.accepted is None or moment > subtask.accepted[0]):
            subtask.accepted = (moment, intern(entry.tier), size[1])

    def comparison(self) -> Comparison:
        """The comparison over all that was counted."""
        if self._unknown:
            return Comparison(
                estimate="No estimate of the flagship alone. No price is known for it, or for the model of "
                f"{self._unknown:,} accepted answers."
            )
        works, direct = self._sorted()
        ratios = _ratios(works, direct)
        value, interval = total([*works.values()], [ratios[group][1] for group in works])
        alone = round(value) + self._as_they_were
        measured = tuple(
            _measured(*group, work, *ratios[group], direct.get(group[0], ())) for group, work in works.items()
        )
        return Comparison(
            alone=alone,
            interval=interval and (round(interval[0]) + self._as_they_were, round(interval[1]) + self._as_they_were),
            savings=Savings(
                routing=alone - self._listed,
                lanes=self._listed - self._cost - self._caching,
                caching=self._caching,
            ),
            measured=measured,
            estimate=_sentence(measured),
        )

    def _sorted(self) -> tuple[dict[Group, Work], dict[str, list[_Subtask]]]:
        """The accepted work by kind and tier, and by kind what began on the flagship, all of it in the order of its names.

        What was handed on to the flagship is harder than the rest, and says nothing of it.
        """
        found: dict[Group, list[_Subtask]] = defaultdict(list)
        direct: dict[str, list[_Subtask]] = defaultdict(list)
        for _, one in sorted(self._subtasks.items()):
            if one.accepted is not None:
                found[one.kind, one.accepted[1]].append(one)
            if one.first is not None and one.first[1] == FLAGSHIP:
                direct[one.kind].append(one)
        works = {
            group: Work(
                len(ones),
                (sum(one.size[0] for one in ones), sum(one.size[1] for one in ones)),
                sum(sum(one.size) ** 2 for one in ones),
                tuple(Asked(one.size, one.asked[1], one.asked[2]) for one in ones if one.asked is not None),
            )
            for group, ones in sorted(found.items())
        }
        return works, direct


def compared(config: FleetConfig, entry: LedgerEntry) -> LedgerEntry:
    """An answered call with what it is compared with; as it was where a price that this takes is not known."""
    name, flagship = config.model_of(FLAGSHIP)
    usage, at = entry.usage, entry.finished_at
    # Nearly all calls are asked at once with nothing cached, and every call comes by here.
    cached = usage.cached_tokens or usage.cache_write_tokens
    plain = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens) if cached else usage
    try:
        billed = entry.price or tariff(entry.model, config.models[entry.model], entry.lane, at).rates(usage)
        lane_saved = 0
        if billed.context != STANDARD:
            listed = tariff(entry.model, config.models[entry.model], at=at).rates(usage)
            lane_saved = listed.cost(plain) - billed.cost(plain)
        alone = tariff(name, flagship, at=at).rates(usage)
    except (BadInputError, KeyError):
        return entry
    written = alone.of_tokens(Usage(output_tokens=usage.output_tokens))
    its = Compared(
        cache_saved=billed.saved_by_cache(usage) if cached else 0,
        lane_saved=lane_saved,
        flagship_input=max(0, alone.cost(plain) - written),
        flagship_output=written,
    )
    return entry.model_copy(update={"compared": its})


def _ratios(works: dict[Group, Work], direct: Mapping[str, Sequence[_Subtask]]) -> dict[Group, tuple[Basis, Ratio]]:
    found: dict[Group, tuple[Basis, Ratio]] = {
        group: ("itself" if group[1] == FLAGSHIP else "assumed", SAME) for group in works
    }
    others = {group: work for group, work in works.items() if group[1] != FLAGSHIP}
    sampled = from_sample([*others.values()])
    if sampled is not None:
        return found | {group: ("holdout", ratio) for group, ratio in zip(others, sampled, strict=True)}
    for group, work in others.items():
        its = direct.get(group[0], ())
        ratio = from_others(work, [one.on_flagship for one in its], _passed(its))
        if ratio is not None:
            found[group] = ("others", ratio)
    return found


def _passed(direct: Sequence[_Subtask]) -> int:
    return sum(one.accepted is not None and one.accepted[1] == FLAGSHIP for one in direct)


def _measured(kind: str, tier: str, work: Work, basis: Basis, ratio: Ratio, direct: Sequence[_Subtask]) -> Measured:
    asked = passed = 0
    if basis == "holdout":
        asked, passed = len(work.asked), sum(one.passed for one in work.asked)
    elif basis == "others":
        asked, passed = len(direct), _passed(direct)
    return Measured(
        kind=kind,
        tier=tier,
        basis=basis,
        accepted=work.count,
        asked=asked,
        passed=passed,
        input_ratio=round(ratio.ratios[0], 4),
        output_ratio=round(ratio.ratios[1], 4),
        passing=round(ratio.passing, 4),
    )


def _sentence(measured: Sequence[Measured]) -> str:
    count = sum(one.accepted for one in measured)
    said = (
        f"An estimate, not a measurement: for each of {count:,} accepted subtasks the tokens it took, at the flagship's price, "
        "at once and with nothing cached"
    )
    by = {
        basis: sum(one.accepted for one in measured if one.basis == basis) for basis in ("holdout", "others", "assumed")
    }
    asked = sum(one.asked for one in measured if one.basis == "holdout")
    passed = sum(one.passed for one in measured if one.basis == "holdout")
    parts = []
    if by["holdout"]:
        parts.append(
            f"times what the flagship spent on {asked:,} of them that it was asked too (it passed the check with {passed:,})"
        )
    if by["others"]:
        parts.append(f"times what it spent on others of their kind that it was given first (for {by['others']:,})")
    if by["assumed"]:
        whom = "" if by["assumed"] == count else f" (for {by['assumed']:,})"
        parts.append(f"as if it wrote as much and needed no retry{whom}")
    return f"{said}{', ' if parts else ''}{', '.join(parts)}; planning and review as they were."
