"""The bundled list: every price in it comes to what its package computes, and what it does not know is no price."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP

import genai_prices
import pytest
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from fleet.config import ModelConfig
from fleet.errors import BadInputError
from fleet.price_list import CONTEXTS, MINUTE_S, NotListedError, dated, listing
from fleet.prices import Usage, tariff

LISTED = ModelConfig(context_tokens=1_000_000)
MOMENT = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()
MINUTE = int(MOMENT // MINUTE_S)


def known(name: str, context: str) -> bool:
    try:
        listing(name, context, MINUTE)
    except NotListedError:
        return False
    return True


NAMES = sorted({model.id for provider in providers for model in provider.models})
PRICED = [(name, context) for name in NAMES for context in ("standard", *CONTEXTS) if known(name, context)]


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    into = draw(st.integers(0, 2_000_000) | st.sampled_from([128_000, 200_000, 200_001, 272_000, 272_001]))
    cached = draw(st.integers(0, into))
    written = draw(st.integers(0, into - cached))
    return Usage(
        input_tokens=into, cached_tokens=cached, cache_write_tokens=written, output_tokens=draw(st.integers(0, 200_000))
    )


@given(st.sampled_from(PRICED), usages())
def test_a_listed_price_is_the_one_that_the_package_computes(priced: tuple[str, str], usage: Usage) -> None:
    name, context = priced
    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    theirs = genai_prices.calc_price(
        counts,
        model_ref=name,
        price_context=CONTEXTS.get(context),
        genai_request_timestamp=datetime.fromtimestamp(MOMENT, UTC),
    )
    expected = int((theirs.total_price * 10**9).to_integral_value(rounding=ROUND_HALF_UP))
    assert tariff(name, LISTED, context, MOMENT).rates(usage).cost(usage) == expected


def test_the_list_is_large_and_has_lanes() -> None:
    assert len(PRICED) > 300
    assert {context for _, context in PRICED} == {"standard", *CONTEXTS}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no-such-model", 'The bundled list does not know the model "no-such-model"'),
        ("gpt-image-1", r"by what the fleet does not count \(cache_image_read_mtok, input_image_mtok\)"),
        ("tts-1", r"by what the fleet does not count \(input_mchars\)"),
        ("whisper-1", "has no price for both input and output"),
    ],
)
def test_a_model_that_cannot_be_billed_is_none_for_nothing(name: str, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        tariff(name, LISTED)


def test_a_price_holds_from_a_day_on_and_says_so() -> None:
    def since(context: str, day: tuple[int, int, int]) -> date | None:
        return listing("gpt-5.4", context, int(datetime(*day, tzinfo=UTC).timestamp() // MINUTE_S)).since

    assert since("flex", (2026, 10, 12)) == date(2026, 10, 12)
    with pytest.raises(NotListedError, match="has no price for it in the lane flex"):
        since("flex", (2026, 10, 11))
    assert since("standard", (2026, 10, 11)) is None


def test_the_list_says_how_old_it_may_be() -> None:
    then, now = dated(MINUTE), dated(int(time.time() // MINUTE_S))
    assert then is not None
    assert now is not None
    assert date(2026, 10, 1) < then <= date(2026, 11, 20)
    assert now >= then
