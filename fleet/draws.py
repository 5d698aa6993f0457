"""One way in which a job may turn out: a draw of all that is not known of it, and what it then costs and takes.

It owns the priors. Each draw takes one value for the share of subtasks that a condition lets run and the share of answers that
are accepted (Beta), for the length of prompts and answers, the cost and the time of a call (lognormal; with Student's tails
where few calls were seen), and on top of that for what so many single calls scatter. An answer that is rejected is paid and
goes up the ladder; what is rejected at its top is paid as well. Each call has the price and takes the time of the lane that it
takes with what is left until its step is due (`fleet.lane_draws`). It knows dice, no clock and no store.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from fleet.choices import account_of
from fleet.config import FleetConfig
from fleet.estimate import REVIEW, Look, Work
from fleet.evidence import NOTHING, START, Evidence, Seen
from fleet.lane_draws import AT_ONCE, Way, Ways
from fleet.ledger import Lane
from fleet.prices import Usage, cost_nano_usd
from fleet.trust import LEAST

#: (accepted, rejected) before anything is known: of free texts, of answers with a schema, of those that have to pass a check
#: of their step's besides, and of what was rejected once.
FREE, STRUCTURED, CHECKED, AGAIN = (30.0, 0.6), (12.0, 0.8), (4.0, 1.5), (6.0, 1.5)
#: Subtasks that a condition holds for, and does not, before anything is known.
CONDITION = (2.0, 1.0)
#: Standard deviations of logarithms. Of a prompt's length as estimated; of an answer's around the likely one; of a tier's answers
#: around another's for the same; of what one job costs a call around others of its kind; of single calls around their mean.
PROMPT, ANSWER, OTHER_TIER, OTHER_JOB, SINGLE = 0.1, 0.7, 0.3, 0.25, 0.5
#: How many observations the last of these is worth.
SINGLE_WORTH = 2.0
#: Seconds until an answer begins and of each token, give or take (a standard deviation of the logarithm); where some were timed.
BEGIN_S, TOKEN_S, TIME, TIMED = 1.0, 0.0125, 0.7, 0.3
#: Seconds from the end of a subtask to the begin of the next that waited for it.
HOP_S = 0.1
#: How likely it is that a kind was audited before, although this is not told here.
KNOWN = 0.3
#: How likely a review is to send something back, and tokens of what outputs are condensed to that are too many for one.
SENT_BACK, CONDENSED = 0.25, 1_000
#: No factor is drawn beyond this.
FARTHEST = math.log(100.0)
#: Up to so many subtasks are drawn one by one.
FEW = 200


@dataclass(slots=True)
class Draw:
    """How it turned out."""

    #: By step.
    calls: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    #: By account: requests and tokens; by tier: seconds of calls.
    requests: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    tokens: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    #: By step: when its last subtask would end, had it all the places it wants; the tokens of its outputs; the share that ran.
    ends: dict[str, float] = field(default_factory=dict)
    written: dict[str, float] = field(default_factory=dict)
    ran: dict[str, float] = field(default_factory=dict)
    #: The lane of its first calls.
    lanes: dict[str, Lane] = field(default_factory=dict)

    def time(self, config: FleetConfig) -> tuple[float, float]:
        """Seconds, and those that the limits alone take."""
        limited = busy = 0.0
        for name, tier in config.tiers.items():
            account, limits = account_of(*config.model_of(name)), config.model_of(name)[1].limits
            if limits.requests_per_minute:
                limited = max(limited, 60 * self.requests[account] / limits.requests_per_minute)
            if limits.tokens_per_minute:
                limited = max(limited, 60 * self.tokens[account] / limits.tokens_per_minute)
            busy = max(busy, self.busy[name] / min(tier.concurrency, limits.in_flight or tier.concurrency))
        return max(limited, busy) + max(self.ends.values(), default=0.0), limited


class Dice:
    """Draws jobs of one configuration."""

    def __init__(self, config: FleetConfig, evidence: Mapping[str, Evidence], seed: int = 0) -> None:
        self._config = config
        self._evidence = evidence
        self._random = Random(seed)  # noqa: S311  chance, not secrecy
        self._ways = Ways(config, self._random)
        #: By step, tier and lane: nano-dollars of an input and of an output token.
        self._prices: dict[tuple[str, str, Lane], tuple[float, float]] = {}

    def draw(self, works: list[Work]) -> Draw:
        """One of many; `works`: needs first."""
        draw = Draw()
        for work in works:
            self._step(draw, work, self._evidence.get(work.step, NOTHING))
        return draw

    def likely_cost(self, work: Work, tier: str) -> float:
        """Of a call of a tier that is asked at once, before anything is known."""
        return self._cost_of(work, tier, work.input_tokens, work.output_tokens)

    def _step(self, draw: Draw, work: Work, its: Evidence) -> None:
        count = work.subtasks * self._share(work, its)
        if work.subtasks > 1:
            # What needs a subtask that was skipped is skipped as well.
            count *= min((draw.ran.get(need, 1.0) for need in work.needs), default=1.0)
        count *= 1 + self._again(work.rounds)
        draw.ran[work.step] = count / work.subtasks if work.subtasks else 0.0
        draw.calls[work.step] = draw.cost[work.step] = draw.written[work.step] = 0.0
        into = work.input_tokens * self._factor(PROMPT) + self._gathered(draw, work)
        length = self._factor(ANSWER)
        begins = max((draw.ends.get(need, 0.0) for need in (*work.needs, *work.gathers)), default=0.0)
        reach, path, came_from = count, 0.0, START
        for tier in work.ladder:
            seen = its.seen.get((tier, came_from))
            out = work.output_tokens * length * (1.0 if came_from == START else self._factor(OTHER_TIER))
            out = min(out, work.most_output_tokens)
            if seen is not None and seen.written is not None:
                out = seen.written / seen.n
            way = self._ways.work(tier, _left(work, begins + path))
            draw.lanes.setdefault(work.step, way.lane)
            seconds, accepted = self._seconds(seen, out) * way.slower, self._accepted(work, seen, came_from, reach)
            cost = self._call(work, its, tier, came_from, into, out) * self._off(work, tier, into, out, way)
            draw.calls[work.step] += reach
            draw.cost[work.step] += reach * cost * self._scatter(seen, reach)
            draw.written[work.step] += reach * accepted * out
            self._asked(draw, tier, reach * way.at_once, into + out, seconds)
            path += (way.waits_s + (seconds if way.at_once > 0 else 0.0)) * min(1.0, reach)
            into += out  # the next tier is shown it
            reach *= 1 - accepted
            came_from = tier
        for look in work.looks:
            self._look(draw, work, look, count - reach, self._audited(look, its), _left(work, begins + path))
        draw.ends[work.step] = begins + path + HOP_S

    def _audited(self, look: Look, its: Evidence) -> float:
        """The share of answers that is looked at: of a kind that is known hardly any, or fewer than usual."""
        if look.most_share is None:
            return look.share
        known = its.basis == "history"
        if not known and self._random.random() < KNOWN:
            return LEAST
        low, high = (LEAST, look.share) if known else (look.share, look.most_share)
        return low * math.exp(self._random.random() * math.log(high / low))

    def _look(self, draw: Draw, work: Work, look: Look, accepted: float, share: float, left_s: float | None) -> None:
        """Calls beside the work itself, at what they are likely to cost."""
        calls = accepted * self._realised(share, accepted)
        into, out = work.input_tokens + work.output_tokens + look.input_tokens, look.output_tokens
        way = self._ways.audits(look.tier, left_s) if look.audit else AT_ONCE
        cost = self._cost_of(work, look.tier, into, out) * self._off(work, look.tier, into, out, way)
        draw.calls[work.step] += calls
        draw.cost[work.step] += calls * cost * self._factor(OTHER_TIER)
        self._asked(draw, look.tier, calls, into + out, self._seconds(None, out) * way.slower)

    def _asked(self, draw: Draw, tier: str, calls: float, tokens: float, seconds: float) -> None:
        """Count calls that take a permit and a place."""
        account = account_of(*self._config.model_of(tier))
        draw.requests[account] += calls
        draw.tokens[account] += calls * tokens
        draw.busy[tier] += calls * seconds

    def _off(self, work: Work, tier: str, into: float, out: float, way: Way) -> float:
        """What calls cost the way they are asked, to what they would cost at once."""
        if way is AT_ONCE:
            return 1.0
        costs = (share * self._cost_of(work, tier, into, out, lane) for lane, share in way.billed.items())
        return sum(costs) / self._cost_of(work, tier, into, out)

    def _share(self, work: Work, its: Evidence) -> float:
        """Of the subtasks that come up, those that the condition lets run."""
        if not work.conditional:
            return 1.0
        held, looked = work.holds
        if looked >= work.subtasks > 0:
            return held / looked
        held, looked = held + its.ran, looked + its.ran + its.skipped
        return self._realised(
            self._random.betavariate(CONDITION[0] + held, CONDITION[1] + looked - held), work.subtasks
        )

    def _gathered(self, draw: Draw, work: Work) -> float:
        """Tokens of outputs in a prompt; what is too much for a review is condensed by the mini tier first."""
        gathered = sum(draw.written[step] for step in work.gathers)
        if work.step != REVIEW:
            return gathered
        # The reviewer counts two bytes to a token, to be safe; texts have about four.
        room = max(1_000.0, (self._config.model_of(work.ladder[0])[1].context_tokens - work.most_output_tokens) / 2)
        if gathered <= room:
            return gathered
        name, model = self._config.model_of("mini")
        parts = math.ceil(gathered / (model.context_tokens / 2))
        usage = Usage(input_tokens=round(gathered / parts), output_tokens=CONDENSED)
        draw.cost[work.step] += parts * cost_nano_usd(name, model, usage)
        draw.calls[work.step] += parts
        return min(room, parts * CONDENSED)

    def _call(self, work: Work, its: Evidence, tier: str, came_from: str, into: float, out: float) -> float:
        """What a call of a tier costs on the average where it is asked at once."""
        seen = its.seen.get((tier, came_from))
        if seen is not None:
            variance, degrees = _variance(seen)
            error = math.sqrt(variance / seen.n + (OTHER_JOB**2 if its.basis == "history" else 0.0))
            student = self._random.gauss(0.0, 1.0) / math.sqrt(self._random.gammavariate(degrees / 2, 2 / degrees))
            return seen.mean * its.scale * math.exp(max(-FARTHEST, min(FARTHEST, error * student)))
        best = max(its.seen.items(), key=lambda one: one[1].n, default=None)
        if best is None:
            return self._cost_of(work, tier, into, out)
        # What another tier's calls cost, to what they were expected to, says something of this one's.
        off = its.scale * best[1].mean / self.likely_cost(work, best[0][0])
        return self.likely_cost(work, tier) * off * self._factor(OTHER_TIER)

    def _cost_of(self, work: Work, tier: str, into: float, out: float, lane: Lane = "standard") -> float:
        if (work.step, tier, lane) not in self._prices:
            name, model = self._config.model_of(tier)
            usage = Usage(input_tokens=max(1, work.input_tokens), output_tokens=max(1, work.output_tokens))
            read = cost_nano_usd(name, model, usage.model_copy(update={"output_tokens": 0}), lane)
            written = cost_nano_usd(name, model, usage, lane) - read
            self._prices[work.step, tier, lane] = (read / usage.input_tokens, written / usage.output_tokens)
        read_price, written_price = self._prices[work.step, tier, lane]
        return max(1.0, into * read_price + out * written_price)

    def _scatter(self, seen: Seen | None, calls: float) -> float:
        """How far the mean of so many calls lies off the mean of all calls."""
        spread = SINGLE if seen is None else math.sqrt(_variance(seen)[0])
        return self._factor(spread / math.sqrt(max(1.0, calls)))

    def _seconds(self, seen: Seen | None, out: float) -> float:
        if seen is not None and seen.seconds:
            return seen.seconds / seen.n * self._factor(TIMED)
        return (BEGIN_S + TOKEN_S * out) * self._factor(TIME)

    def _accepted(self, work: Work, seen: Seen | None, came_from: str, calls: float) -> float:
        first = CHECKED if work.checked else STRUCTURED if work.structured else FREE
        good, bad = first if came_from == START else AGAIN
        if seen is not None:
            # What is known weighs more than a guess, which is worth one answer then.
            good, bad = good / (good + bad) + seen.accepted, bad / (good + bad) + max(0.0, seen.n - seen.accepted)
        return self._realised(self._random.betavariate(good, bad), calls)

    def _realised(self, share: float, of: float) -> float:
        """What a share comes to among so many, where they are few."""
        count = round(of)
        if not 0 < count <= FEW:
            return share
        return sum(self._random.random() < share for _ in range(count)) / count

    def _again(self, most: int) -> int:
        again = 0
        while again < most and self._random.random() < SENT_BACK:
            again += 1
        return again

    def _factor(self, deviation: float) -> float:
        return math.exp(max(-FARTHEST, min(FARTHEST, self._random.gauss(0.0, deviation))))


def _left(work: Work, at_s: float) -> float | None:
    """Seconds until a step is due, so many after the submission of its job."""
    return None if work.due_s is None else work.due_s - at_s


def _variance(seen: Seen) -> tuple[float, float]:
    """Relative variance of a single call's cost, and the observations that it rests on."""
    if seen.squares is None or seen.mean <= 0:
        return SINGLE**2, SINGLE_WORTH + seen.n
    squares = max(0.0, seen.squares - seen.n * seen.mean**2) / seen.mean**2
    degrees = SINGLE_WORTH + max(0.0, seen.n - 1)
    return (SINGLE_WORTH * SINGLE**2 + squares) / degrees, degrees
