"""The store's scripts against a real Valkey: states, claims with fences, needs, fairness, charges."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from queues.quotas import Quotas
from queues.subtasks import Charge, Intent, Refusal, Refused, State
from tests.support.stores import claimed, new, open_store
from tests.support.valkey import Valkey


def test_a_subtask_goes_from_ready_to_final_and_frees_what_waited_for_it(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            assert await store.add([new("j/a"), new("j/b", needs=("j/a",), tier="mini")]) == 2
            assert [released.id for released in await store.release("nano", 10)] == ["j/a"]
            assert await store.release("mini", 10) == []
            claim = await claimed(store, "j/a")
            assert claim.payload == "payload of j/a"
            assert await store.finish(claim, "ok", "output")
            assert [released.id for released in await store.release("mini", 10)] == ["j/b"]
            result = (await store.results(["j/a", "j/nothing"]))[0]
            assert result is not None
            assert (result.state, result.status, result.output) == (State.FINAL, "ok", "output")
            assert (await store.results(["j/nothing"])) == [None]
            counts = await store.counts("j")
            assert counts["nano"] == {"ready": 0, "queued": 0, "running": 0, "final": 1, "ok": 1}
            assert counts["mini"]["queued"] == 1

    asyncio.run(scenario())


def test_adding_again_changes_nothing_even_after_the_end(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            specs = [new("j/a"), new("j/b", needs=("j/a",))]
            await store.add(specs)
            await store.finish(await claimed(store, "j/a"), "ok", "")
            assert await store.add(specs) == 0
            assert await store.add([new("j/late", needs=("j/a", "j/b"))]) == 1
            await store.finish(await claimed(store, "j/b"), "failed", "")
            released = await store.release("nano", 10)
            assert [one.id for one in released] == ["j/late"]

    asyncio.run(scenario())


def test_only_the_current_fence_writes(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, lease_ms=300) as store:
            await store.add([new("j/a")])
            zombie = await claimed(store, "j/a")
            await asyncio.sleep(0.4)  # the lease is what is tested; its end is the server's clock
            await store.register("nano", "other", 1, 600_000)  # the store was not away
            heir = await claimed(store, "j/a")
            assert heir.fence > zombie.fence
            assert (heir.kills, heir.claims) == (1, 2)
            charge = Charge("j", "call-1", "paid", "j", "j/a", 7)
            assert not await store.finish(zombie, "ok", "stale", [charge])
            assert not await store.hand_on(zombie, "mini", "stale")
            assert await store.renew([zombie]) == [zombie]
            assert await store.finish(heir, "ok", "fresh")
            assert await store.finish(heir, "ok", "again"), "the same call again, its reply lost, is no stale write"
            assert await store.records("j") == {"call-1": "paid"}, "what was paid is booked whatever the fence says"
            result = (await store.results(["j/a"]))[0]
            assert result is not None
            assert result.output == "fresh"

    asyncio.run(scenario())


def test_a_fence_that_is_only_counted_up_is_above_those_of_an_earlier_round(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/gate", members=1), new("j/a", gate="j/gate", gate_index=0)])
            first = await claimed(store, "j/a")
            await store.finish(first, "ok", "")
            assert await store.forget("j/gate", ["j/a"], "j/1.0.0", "j", entries=0, guesses=0)
            await store.add([new("j/a")])
            (fence,) = await store.fields("j/a", "fence")
            assert int(fence or 0) + 1 > first.fence, "what a worker of the version 19a71cc would be given"

    asyncio.run(scenario())


def test_a_claim_is_refused_with_its_reason(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a"), new("j/b", needs=("j/a",))])
            claim = await claimed(store, "j/a")
            assert await store.claim("j/a", "nano") == Refusal("busy")
            assert await store.claim("j/b", "nano") == Refusal("busy")
            assert await store.claim("j/b", "mini") == Refusal("elsewhere")
            assert await store.claim("j/c", "nano") == Refusal("gone")
            await store.finish(claim, "skipped", "")
            assert await store.claim("j/a", "nano") == Refusal("final", "skipped")

    asyncio.run(scenario())


def test_handed_on_goes_in_front_of_the_next_tier_with_its_trail(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/m1", tier="mini"), new("j/a")])
            claim = await claimed(store, "j/a")
            assert await store.hand_on(claim, "mini", "rejected: no JSON")
            assert await store.claim("j/a", "nano") == Refusal("elsewhere")
            assert [one.id for one in await store.release("mini", 10)] == ["j/a", "j/m1"]
            assert (await claimed(store, "j/a", "mini")).trail == "rejected: no JSON"

    asyncio.run(scenario())


def test_the_window_is_a_little_more_than_the_live_capacity(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, capacity=16) as store:
            await store.add([new(f"j/{i}") for i in range(30)])
            first = await store.release("nano", 100)
            assert len(first) == 18
            assert await store.release("nano", 100) == []
            await store.finish(await claimed(store, first[0].id), "ok", "")
            assert len(await store.release("nano", 100)) == 1
            await store.register("nano", "w", 16, 0)
            await store.finish(await claimed(store, first[1].id), "ok", "")
            assert await store.release("nano", 100) == [], "without a live worker nothing is released"

    asyncio.run(scenario())


def test_release_is_fair_between_tenants_then_jobs_by_share(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("big", tenant="one", share=1)
            await store.open_job("urgent", tenant="one", share=4)
            await store.open_job("small", tenant="two", share=1)
            await store.add([new(f"big/{i}") for i in range(200)])
            await store.add([new(f"urgent/{i}") for i in range(200)])
            await store.add([new(f"small/{i}") for i in range(200)])
            jobs = Counter(one.id.split("/")[0] for one in await store.release("nano", 100))
            assert jobs["small"] == 50, jobs
            # The order inside a tenant is by share: 4 to 1, the first round aside.
            assert 38 <= jobs["urgent"] <= 41, jobs

    asyncio.run(scenario())


def test_a_lane_that_was_idle_gets_no_credit(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("a", tenant="a", share=1)
            await store.open_job("b", tenant="b", share=1)
            await store.add([new(f"a/{i}") for i in range(300)])
            assert len(await store.release("nano", 100)) == 100
            await store.add([new(f"b/{i}") for i in range(300)])
            tenants = Counter(one.id[0] for one in await store.release("nano", 100))
            assert abs(tenants["a"] - tenants["b"]) <= 2, tenants

    asyncio.run(scenario())


def test_reconcile_puts_back_lost_messages_and_expired_claims(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, lease_ms=300) as store:
            await store.add([new("j/lost"), new("j/dead")])
            await store.sent([one.id for one in await store.release("nano", 10)])
            dead = await claimed(store, "j/dead")
            await asyncio.sleep(0.4)  # the lease is what is tested
            await store.register("nano", "other", 1, 600_000)  # the store was not away
            found = dict(await store.reconcile())
            assert found == {"j/lost": State.QUEUED, "j/dead": State.RUNNING}
            assert await store.reconcile() == []
            assert not await store.finish(dead, "ok", "too late")
            assert {one.id for one in await store.release("nano", 10)} == {"j/lost", "j/dead"}
            assert (await claimed(store, "j/dead")).kills == 1

    asyncio.run(scenario())


def test_forgotten_subtasks_are_gone_and_may_be_added_again_under_higher_fences(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            members = [new("j/a", gate="j/gate", gate_index=0), new("j/b", gate="j/gate", gate_index=1)]
            await store.add([new("j/gate", members=2), *members])
            zombie = await claimed(store, "j/a")
            assert await store.finish(zombie, "ok", "first", [Charge("j/1", "call", "entry", "j", "j/a", 5)])
            assert not await store.forget("j/gate", ["j/a", "j/b"], "j/1", "j", entries=0, guesses=0), (
                "it has an entry by now"
            )
            assert await store.forget("j/gate", ["j/a", "j/b"], "j/1", "j", entries=1, guesses=0)
            assert await store.forget("j/gate", ["j/a", "j/b"], "j/1", "j", entries=0, guesses=0)
            await store.settle([Charge("j/1", "call", "entry", "j", "j/a", 5)])
            assert [result and result.state for result in await store.results(["j/a", "j/b"])] == [None, State.READY]
            assert await store.records("j/1") == {}
            assert await store.quota("j") == (None, 5, 0), "what was used stays used"
            await store.add([new("j/next", members=1), new("j/a", gate="j/next", gate_index=0, trail="do better")])
            again = await claimed(store, "j/a")
            assert again.trail == "do better"
            assert again.fence > zombie.fence
            assert not await store.finish(zombie, "ok", "stale")
            assert await store.finish(again, "ok", "better")
            # By a worker that closed the first gate and stood still.
            assert await store.forget("j/gate", ["j/a"], "j/1", "j", entries=0, guesses=0)
            result = (await store.results(["j/a"]))[0]
            assert result is not None
            assert result.output == "better"

    asyncio.run(scenario())


def test_holds_never_pass_the_cap_and_charges_settle_once(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await Quotas(store.link, store.namespace).set_cap("j", 100)
            intents = [Intent("j", f"j/s{i}", f"call{i}", 30, "") for i in range(10)]
            verdicts = await asyncio.gather(*(store.intend(intent) for intent in intents))
            assert verdicts.count(None) == 3
            assert Refused("short", cap=100, others=90) in verdicts
            assert await store.quota("j") == (100, 0, 90)
            assert await store.intend(Intent("j", "j/s0", "call0", 40, "")) is None, "an intent replaces itself"
            charge = Charge("j", "call0", "entry", "j", "j/s0", 25)
            await store.settle([charge])
            await store.settle([charge])
            assert await store.quota("j") == (100, 25, 60)
            await store.let_go(intents[1])
            assert await store.quota("j") == (100, 25, 30)
            assert await store.intend(Intent("free", "free/x", "c", 10**12, "")) is None, "no cap: everything is held"

    asyncio.run(scenario())


def test_an_unsettled_intent_is_found_by_the_next_and_its_guess_gives_way_to_the_truth(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await Quotas(store.link, store.namespace).set_cap("j", 100)
            assert await store.intend(Intent("j", "j/a", "call1", 60, "what to do")) is None
            second = Intent("j", "j/a", "call2", 30, "")
            assert await store.intend(second) == Refused("unsettled", note="what to do")
            guess = Charge("j", "call1", "lost", "j", "j/a", 60, provisional=True)
            await store.settle([guess])
            assert await store.quota("j") == (100, 60, 0)
            assert await store.intend(second) is None
            # The worker that was thought dead comes back with what call1 really used.
            await store.settle([Charge("j", "call1", "true", "j", "j/a", 20)])
            await store.settle([guess])
            assert await store.quota("j") == (100, 20, 30), "the later intent under the same hold stays held"
            assert await store.records("j") == {"call1": "true"}

    asyncio.run(scenario())


def test_a_paused_job_starts_nothing_and_goes_on_where_it_was(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.open_job("j", tenant="t", share=1)
            await store.add([new("j/a"), new("j/b"), new("j/c", needs=("j/b",))])
            assert len(await store.release("nano", 1)) == 1
            running = await claimed(store, "j/b")
            await store.stop("j", "paused", ["nano", "mini"])
            assert await store.claim("j/a", "nano") == Refusal("busy"), "its message came too late"
            assert await store.intend(Intent("j", "j/b", "call", 1, "")) == Refused("paused")
            assert await store.finish(running, "ok", ""), "what was running may end"
            assert await store.release("nano", 10) == []
            assert await store.resume("j", ["nano", "mini"])
            assert not await store.resume("j", ["nano", "mini"])
            assert {one.id for one in await store.release("nano", 10)} == {"j/a", "j/c"}

    asyncio.run(scenario())


def test_a_cancelled_job_drops_what_is_ready_and_takes_the_running_claims(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a"), new("j/b"), new("k/a")])
            running = await claimed(store, "j/b")
            await store.stop("j", "cancelled", ["nano"])
            assert await store.renew([running]) == [running]
            assert await store.claim("j/a", "nano") == Refusal("gone")
            assert await store.intend(Intent("j", "j/b", "call", 1, "")) == Refused("cancelled")
            assert [one.id for one in await store.release("nano", 10)] == ["k/a"]
            await store.stop("j", "paused", ["nano"])
            assert not await store.resume("j", ["nano"]), "what was dropped cannot be resumed"
            assert await store.stopped("j") == ("cancelled", "")

    asyncio.run(scenario())


def test_what_costs_nothing_is_held_and_settled_like_the_rest(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            assert await store.intend(Intent("j", "j/a", "call", 0, "")) is None
            await store.settle([Charge("j", "call", "entry", "j", "j/a", 0)])
            assert await store.quota("j") == (None, 0, 0)

    asyncio.run(scenario())


def test_advance_compares_and_sets(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.link.execute("HSET", "test:job:j", "status", "planning")
            assert await store.advance("job:j", "status", ["planning"], "running", {"at": 1})
            assert not await store.advance("job:j", "status", ["planning"], "failed")
            assert await store.link.execute("HGET", "test:job:j", "status") == b"running"

    asyncio.run(scenario())


def test_a_hold_of_nothing_is_freed_like_any_other(valkey: Valkey) -> None:
    """A model that costs nothing: minus zero is no integer to the server."""

    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            claim = await claimed(store, "j/a")
            assert await store.intend(Intent("j", "j/a", "call", 0, "note", "j/a", claim.fence)) is None
            assert await store.finish(claim, "ok", "", [Charge("j", "call", "free", "j", "j/a", 0)])
            assert await store.quota("j") == (None, 0, 0)

    asyncio.run(scenario())


def test_a_lost_claim_may_not_pay_but_what_is_under_way_is_journalled(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            zombie = await claimed(store, "j/a")
            await store.link.execute("ZADD", "test:watch", 0, "j/a")  # its time has passed
            heir = await claimed(store, "j/a")
            assert await store.intend(Intent("j", "j/a", "old", 5, "", "j/a", zombie.fence)) == Refused("stale")
            assert await store.intend(Intent("j", "j/a", "new", 5, "", "j/a", heir.fence)) is None
            await store.stop("j", "paused", ["nano"])
            assert await store.intend(Intent("j", "j/a", "new", 5, "handle", "j/a", heir.fence)) is None
            assert await store.unsettled("j") == ["handle"]

    asyncio.run(scenario())


def test_a_part_of_a_lost_duty_may_not_pay_either(valkey: Valkey) -> None:
    """What a review asks on the way holds under a name of its own, and is made under the review's claim."""

    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/review.1")])
            zombie = await claimed(store, "j/review.1")
            await store.link.execute("ZADD", "test:watch", 0, "j/review.1")
            heir = await claimed(store, "j/review.1")
            part = ("j", "j/reduce.1.0.0", "call", 5, "")
            assert await store.intend(Intent(*part, zombie.id, zombie.fence)) == Refused("stale")
            assert await store.intend(Intent(*part, heir.id, heir.fence)) is None

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("lease_s", "away_s", "spared"), [(30, 2.9, False), (30, 3.1, True), (2, 0.9, False), (2, 1.1, True)]
)
def test_claims_are_spared_after_an_absence_that_may_have_cost_them(
    valkey: Valkey, lease_s: float, away_s: float, spared: bool
) -> None:
    async def scenario() -> None:
        async with open_store(valkey, lease_ms=round(lease_s * 1000)) as store:
            await store.add([new("j/alive")])
            assert await store.reconcile() == []
            await claimed(store, "j/alive")
            await store.link.execute("ZADD", "test:watch", 0, "j/alive")
            await store.link.execute("HINCRBY", "test:beat", "at", -round(away_s * 1000))
            assert await store.reconcile() == ([] if spared else [("j/alive", State.RUNNING)])

    asyncio.run(scenario())


def test_after_the_store_was_away_a_claim_can_still_be_renewed_and_counts_as_no_death(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/alive"), new("j/dead")])
            assert await store.reconcile() == []
            alive, dead = await claimed(store, "j/alive"), await claimed(store, "j/dead")
            # Nobody looked for a minute, and both claims ran out meanwhile.
            await store.link.execute("HINCRBY", "test:beat", "at", -60_000)
            await store.link.execute("ZADD", "test:watch", 0, "j/alive", 0, "j/dead")
            assert await store.claim("j/alive", "nano") == Refusal("busy"), (
                "a message that comes first takes nothing over"
            )
            assert await store.reconcile() == []
            assert await store.renew([alive]) == []
            await store.link.execute("HSET", "test:beat", "lenient_until", 0)  # the time for that is over
            await store.link.execute("ZADD", "test:watch", 0, "j/dead")
            assert await store.reconcile() == [("j/dead", State.RUNNING)]
            assert await store.finish(alive, "ok", "")
            assert not await store.finish(dead, "ok", "")
            assert (await claimed(store, "j/dead")).kills == 1

    asyncio.run(scenario())


def test_what_was_released_and_not_sent_comes_back_soon_what_was_sent_later(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, lease_ms=60_000) as store:
            await store.add([new("j/a"), new("j/b"), new("j/c")])
            assert len(await store.release("nano", 3)) == 3
            claim = await claimed(store, "j/c")
            await store.sent(["j/a", "j/c"])
            due = {id_: float(await store.link.execute("ZSCORE", "test:watch", id_)) for id_ in ("j/a", "j/b", "j/c")}
            assert due["j/b"] < due["j/a"], "the unsent one first"
            # Long after the unsent one was due.
            await store.link.execute("ZINCRBY", "test:watch", -store.unsent_ms, "j/b")
            assert await store.reconcile() == [("j/b", State.QUEUED)]
            assert await store.finish(claim, "ok", "")

    asyncio.run(scenario())


def test_what_is_forgotten_on_its_way_gives_its_place_back(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey, capacity=3) as store:
            ids = [f"j/{number}" for number in range(4)]
            members = [new(id_, gate="j/gate", gate_index=index) for index, id_ in enumerate(ids)]
            await store.add([new("j/gate", members=4, tier="mini"), *members])
            assert len(await store.release("nano", 10)) == 4
            await store.stop("j", "cancelled", ["nano", "mini"])
            assert await store.forget("j/gate", ids, "j/1.0.0", "j", entries=0, guesses=0)
            assert await store.claim("j/0", "nano") == Refusal("gone")
            assert await store.reconcile() == []
            await store.add([new(f"k/{number}") for number in range(9)])
            assert len(await store.release("nano", 10)) == 4, "the whole window"

    asyncio.run(scenario())


def test_a_message_that_is_lost_again_and_again_is_sent_again_within_the_lease_and_ten_seconds(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            for _ in range(4):
                assert [released.id for released in await store.release("nano", 1)] == ["j/a"]
                await store.sent(["j/a"])
                due = float(await store.link.execute("ZSCORE", "test:watch", "j/a")) / 1000 - await store.now()
                assert 29 < due <= 40
                await store.link.execute("ZADD", "test:watch", 0, "j/a")
                assert await store.reconcile() == [("j/a", State.QUEUED)]

    asyncio.run(scenario())


def test_a_zombie_says_what_became_of_its_call_until_somebody_has_claimed_since(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with open_store(valkey) as store:
            await store.add([new("j/a")])
            await store.release("nano", 1)
            zombie = await claimed(store, "j/a")
            intent = Intent("j", "j/a", "j/a.1", 5, "begun", "j/a", zombie.fence)
            assert await store.intend(intent) is None
            await store.link.execute("ZADD", "test:watch", 0, "j/a")
            await store.reconcile()
            assert await store.intend(intent) == Refused("stale"), "it may not pay"
            assert await store.intend(replace(intent, note="its handle"), under_way=True) is None
            await store.release("nano", 1)
            heir = await claimed(store, "j/a")
            assert await store.intend(replace(intent, note="another handle"), under_way=True) == Refused("stale")
            mine = replace(intent, id="j/a.2", note="mine", fence=heir.fence)
            assert await store.intend(mine) == Refused("unsettled", note="its handle")

    asyncio.run(scenario())
