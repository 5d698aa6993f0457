"""A correctness table: which answers of which tier to which item are right, and which wrong ones a check can see.

It owns the simulated truth, nothing else: whether an answer is right is a pure function of (seed, kind, item, tier), so that what
any ladder of tiers would have cost and achieved can be worked out exactly, whatever a fleet did. Items of a kind have a
difficulty that all tiers share; how much it counts is `together` (a Gaussian copula: 0, tiers fail independently; 1, a tier that
is right less often fails on all that a better one fails on).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fleet.documents import parse, read_yaml
from fleet.errors import BadInputError

Share = Annotated[float, Field(ge=0, le=1)]
#: `seen`: wrong, and a check can tell; `leaked`: wrong, and it cannot.
Truth = Literal["right", "seen", "leaked"]

_NORMAL = NormalDist()


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Drift(_Frozen):
    """What a kind is like from an item on."""

    #: From which of its items on, as a share of all.
    at: Share = 0.5
    #: By tier, how often it is right from there on; others stay as they are.
    right: dict[str, Share]


class KindTable(_Frozen):
    """One kind of work."""

    #: By tier, how often it is right.
    right: dict[str, Share]
    #: How much the difficulty of an item counts for all tiers alike.
    together: Share = 0.5
    #: Of the wrong answers those that no check sees: of each tier, or by tier.
    leak: Share | dict[str, Share] = 0.0
    #: Items of the kind.
    items: Annotated[int, Field(gt=0)] = 1_500
    #: Tokens of an item's prompt, about, and of an answer by tier (give or take a fifth).
    input_tokens: Annotated[int, Field(gt=0)] = 300
    output_tokens: Annotated[int, Field(gt=0)] | dict[str, Annotated[int, Field(gt=0)]] = 80
    #: Left out: it stays as it is.
    drift: Drift | None = None

    def leaks(self, tier: str) -> float:
        return self.leak.get(tier, 0.0) if isinstance(self.leak, dict) else self.leak

    def writes(self, tier: str) -> int:
        return self.output_tokens.get(tier, 80) if isinstance(self.output_tokens, dict) else self.output_tokens

    def share(self, item: int, tier: str) -> float:
        """How often the tier is right about such an item."""
        if self.drift is not None and item >= self.drift.at * self.items:
            return self.drift.right.get(tier, self.right[tier])
        return self.right[tier]


class Table(_Frozen):
    """All kinds of a simulated world."""

    kinds: dict[str, KindTable]
    seed: int = 0
    #: How often the flagship is wrong about whether an answer is right, when it is asked to judge one.
    judge_error: Share = 0.0

    @model_validator(mode="after")
    def _whole(self) -> Table:
        if not self.kinds:
            raise ValueError("a table needs kinds")
        tiers = {name: set(kind.right) for name, kind in self.kinds.items()}
        first, known = next(iter(tiers.items()))
        for name, its in tiers.items():
            if its != known:
                raise ValueError(f"kinds.{name}.right and kinds.{first}.right do not name the same tiers")
        return self

    @property
    def tiers(self) -> tuple[str, ...]:
        return tuple(next(iter(self.kinds.values())).right)

    def truth(self, kind: str, item: int, tier: str) -> Truth:
        """What the answer of a tier to an item is. Raises KeyError: the table has no such kind or tier."""
        its = self.kinds[kind]
        share = its.share(item, tier)
        ease = sqrt(its.together) * _normal(self.seed, kind, item, "") + sqrt(1 - its.together) * _normal(
            self.seed, kind, item, tier
        )
        if _NORMAL.cdf(ease) < share:
            return "right"
        return "leaked" if uniform(self.seed, kind, item, tier, "leak") < its.leaks(tier) else "seen"

    def spread(self, kind: str, item: int, tier: str) -> float:
        """By how much an answer is longer or shorter than usual: 0.8 to 1.2."""
        return 0.8 + 0.4 * uniform(self.seed, kind, item, tier, "length")


@dataclass(frozen=True, slots=True)
class Case:
    """An item of a kind."""

    kind: str
    item: int


def load_table(path: Path) -> Table:
    """The table in a YAML or JSON file. Raises BadInputError naming file, key and value."""
    data = read_yaml(path)
    if not isinstance(data, Mapping):
        raise BadInputError(f"{path} holds no table; it needs kinds, each with the shares that its tiers are right.")
    return parse(Table, dict(data), str(path))


def uniform(*parts: object) -> float:
    """A number in (0, 1) that hangs on nothing but its arguments."""
    digest = blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


def _normal(*parts: object) -> float:
    return _NORMAL.inv_cdf(uniform(*parts))
