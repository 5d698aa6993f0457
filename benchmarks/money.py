"""Owns the measurement of what an accepted outcome costs: `make bench-money`.

A real Valkey, coordinator and eight workers run a job with `tier: auto` for each kind of a correctness table (`fleet.sim.table`;
the one that ships has eleven kinds), all at a time, against the simulated provider over HTTP, which answers as the table says.
Cost, audits and checks included, is what the ledger has; what was right is what the table has. From the same table it is worked
out what every fixed ladder of tiers would have cost and achieved with the same items; printed is the one over the other.

`--policy-only` plays the policy alone, with neither processes nor clock, over the given tables or so many random ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.money_figures import KindFigures, figures_of, lines
from benchmarks.processes import FailedError, Processes
from benchmarks.routing_play import Ended, Play
from benchmarks.routing_tables import random_table
from benchmarks.routing_world import Tally, World
from benchmarks.scenes import simulated
from fleet.client import FleetClient
from fleet.config import FleetConfig
from fleet.errors import BadInputError
from fleet.jobs import JobSpec, JobStatus
from fleet.ledger import LedgerEntry
from fleet.prices import Usage, cost_nano_usd
from fleet.runtime import Runtime
from fleet.sim.settings import Latency
from fleet.sim.table import Table, load_table
from fleet.trust import FLOOR

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out" / "bench"
PLOTTER = ROOT / ".venv-peers" / "bin" / "python"
TABLE = Path(__file__).with_name("tables") / "money.yaml"
#: The shipped models, by tier, and how long they take: the outcome of a call is seen a second or two after it was decided on.
MODELS = {"nano": "gpt-5.4-nano", "mini": "gpt-5.4-mini", "flagship": "gpt-5.4"}
SECONDS = {"nano": 0.6, "mini": 0.9, "flagship": 1.4}
WORKERS, CONCURRENCY = {"nano": 3, "mini": 3, "flagship": 2}, 60
PATIENCE_S = 1_200.0
#: A check that sees what the table says is seen: right answers and leaked ones bear `ok-`.
ANSWER = {
    "type": "object",
    "additionalProperties": False,
    "required": ["answer"],
    "properties": {"answer": {"type": "string", "pattern": "^ok-"}},
}
#: By how much the price in hindsight of the calls that were made may differ from their bill.
AGREES = 0.005
#: Tokens that a rejected answer and its reason add to a prompt, where no call has shown it.
REJECTION_TOKENS = 60


class Measured(World):
    """A world whose calls cost what the provider billed, and what it would have billed for those that were not made.

    A prompt is as long whoever reads it, so of a call that was not made the input is that of the others of its kind behind as
    many rejected answers; its output is the table's.
    """

    def __init__(self, table: Table, inputs: dict[tuple[str, int], float]) -> None:
        """`inputs`: tokens of the prompts of a kind behind so many rejected answers."""
        super().__init__(table, _prices())
        self._inputs = inputs

    def cost(self, kind: str, item: int, path: Sequence[str]) -> float:
        its, tier, depth = self.table.kinds[kind], path[-1], len(path) - 1
        first = self._inputs.get((kind, 0), float(its.input_tokens))
        asked = self._inputs.get((kind, depth), first + depth * REJECTION_TOKENS)
        written = round(its.writes(tier) * self.table.spread(kind, item, tier))
        into, out = self.prices[tier]
        return 1_000 * (asked * into + written * out)


def measure(table: Table, folder: Path) -> tuple[World, dict[str, Tally], list[Ended]]:
    """Run the table on a fleet: the world as it billed, what each kind came to, and the subtasks in the order they ended."""
    processes = Processes(folder)
    try:
        runtime = _start(table, folder, processes)
        return asyncio.run(_run(table, runtime, processes))
    except FailedError as error:
        sys.exit(f"\n{error}\n{processes.last_words()}")
    finally:
        processes.stop()


def _start(table: Table, folder: Path, processes: Processes) -> Runtime:
    (folder / "table.json").write_text(table.model_dump_json())
    latency = {
        MODELS[tier]: Latency(base_s=seconds, per_output_token_s=0, per_1k_input_s=0)
        for tier, seconds in SECONDS.items()
    }
    return simulated(processes, folder, _config(), {"table": folder / "table.json", "latency": latency}, WORKERS)


async def _run(table: Table, runtime: Runtime, processes: Processes) -> tuple[World, dict[str, Tally], list[Ended]]:
    client = FleetClient(runtime)
    try:
        jobs = {kind: await client.submit(_job(table, kind)) for kind in table.kinds}
        await _until_done(client, jobs, processes)
        return await _books(table, client, jobs)
    finally:
        await runtime.aclose()


async def _until_done(client: FleetClient, jobs: dict[str, str], processes: Processes) -> None:
    deadline = time.monotonic() + PATIENCE_S
    left = dict(jobs)
    done = 0
    while left:
        processes.check()
        if time.monotonic() > deadline:
            raise FailedError(f"{', '.join(left)} did not end within {PATIENCE_S:.0f} s.")
        for kind, job_id in list(left.items()):
            status = (await client.job(job_id)).status
            if status.final:
                if status is not JobStatus.COMPLETED:
                    raise FailedError(f"The job of {kind} is {status}.")
                del left[kind]
                done += 1
        print(f"\r{done} of {len(jobs)} kinds done  ", end="", file=sys.stderr, flush=True)
        await asyncio.sleep(0.5)
    print(file=sys.stderr)


async def _books(
    table: Table, client: FleetClient, jobs: dict[str, str]
) -> tuple[World, dict[str, Tally], list[Ended]]:
    """What the ledgers and results of the jobs say."""
    inputs: dict[tuple[str, int], list[int]] = defaultdict(list)
    tallies: dict[str, Tally] = {}
    ended: list[tuple[float, Ended]] = []
    made: list[tuple[str, int, tuple[str, ...], int]] = []
    for kind, job_id in jobs.items():
        job = await client.job(job_id)
        by_item: dict[int, list[LedgerEntry]] = defaultdict(list)
        async for entry in client.ledger(job):
            by_item[int((entry.subtask or "").split("/")[2])].append(entry)
        tally = tallies[kind] = Tally(items=table.kinds[kind].items)
        for item, entries in by_item.items():
            entries.sort(key=lambda entry: entry.started_at)
            answers = [entry for entry in entries if entry.role == "work" and entry.status != "failed"]
            for depth, entry in enumerate(answers):
                inputs[kind, depth].append(entry.usage.input_tokens)
                path = tuple(one.tier for one in answers[: depth + 1])
                made.append((kind, item, path, entry.cost_nano_usd))
            cost = sum(entry.cost_nano_usd for entry in entries)
            tally.cost += cost
            tally.audit_cost += sum(entry.cost_nano_usd for entry in entries if entry.role == "audit")
            last = answers[-1]
            if last.status == "ok":
                tally.accepted += 1
                tally.right += table.truth(kind, item, last.tier) == "right"
            ended.append((max(entry.finished_at for entry in entries), Ended(kind, item, cost)))
    world = Measured(table, {key: statistics.mean(found) for key, found in inputs.items()})
    billed, priced = sum(one[3] for one in made), sum(world.cost(*one[:3]) for one in made)
    print(f"calls made, as they would be priced in hindsight over what was billed: {priced / billed:.5f}")
    if abs(priced / billed - 1) > AGREES:
        raise FailedError("Hindsight is not priced as the provider bills, so nothing can be said of it.")
    return world, tallies, [one for _, one in sorted(ended, key=lambda pair: pair[0])]


def report(world: World, kinds: list[KindFigures]) -> None:
    print(
        f"{'kind':<22} {'best ladder in hindsight':<22} {'over':>6} {'audits':>7} {'right':>7} {'flagship':>8} {'saved':>6}"
    )
    for one in kinds:
        its = one.measured
        saved = 1 - its.each / one.flagship.each
        print(
            f"{one.kind:<22} {' '.join(one.ladder):<22} {one.over:>8.3f} {its.audit_cost / max(1, its.cost):>7.1%} "
            f"{its.right / its.items:>7.1%} {one.flagship.right / its.items:>8.1%} {saved:>6.1%}"
        )
    print()
    for name, value in lines(world, kinds).items():
        print(f"{name}: {value:.4f}")


def play(tables: dict[str, Table], prices: dict[str, tuple[float, float]], seeds: int) -> None:
    """Play the policy over tables: a line for each, and how the figures are distributed."""
    found: dict[str, list[float]] = defaultdict(list)
    for name, table in tables.items():
        world = World(table, prices)
        for seed in range(seeds):
            its = lines(world, figures_of(world, Play(world, seed=seed).run()))
            print(f"{name} {seed}: " + ", ".join(f"{key} {value:.4f}" for key, value in its.items()), flush=True)
            for key, value in its.items():
                found[key].append(value)
    print()
    for key, values in found.items():
        values.sort()
        middle, most = statistics.median(values), values[-1]
        print(f"{key}: mean {statistics.mean(values):.4f}, least {values[0]:.4f}, median {middle:.4f}, most {most:.4f}")


def curves(world: World, kinds: list[KindFigures], ended: Sequence[Ended]) -> dict[str, Any]:
    """For the plot: after each hundredth of the subtasks, what was spent beyond the best ladders, over what those cost in all."""
    best = {one.kind: one.ladder for one in kinds}
    whole = sum(one.best.cost for one in kinds)
    over: dict[str, float] = dict.fromkeys(best, 0.0)
    points: dict[str, list[float]] = {kind: [0.0] for kind in best}
    at = [0]
    every = max(1, len(ended) // 100)
    for number, one in enumerate(ended, 1):
        over[one.kind] += one.cost - world.climb(one.kind, best[one.kind], one.item).cost
        if number % every == 0:
            at.append(number)
            for kind, value in over.items():
                points[kind].append(value / whole)
    return {"at": at, "kinds": points}


def plot(data: dict[str, Any], name: str) -> None:
    """Draw the curves, where there is something to draw with."""
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(data))
    if not PLOTTER.is_file():
        print(f"No plot: {PLOTTER} is not there; `make bench-money` makes it.")
        return
    files = (str(OUT / f"{name}.json"), str(OUT / f"{name}.png"))
    subprocess.run([str(PLOTTER), "-m", "benchmarks.money_plot", *files], cwd=ROOT, check=True)
    print(f"The plot: {OUT / f'{name}.png'}")


def _job(table: Table, kind: str) -> JobSpec:
    its = table.kinds[kind]
    filler = "Some words to be read. " * max(1, its.input_tokens // 6)
    step = {
        "id": "answer",
        "each": "items",
        "tier": "auto",
        "kind": kind,
        "prompt": "Case {{ item.case }}\n" + filler,
        "output": ANSWER,
        "max_output_tokens": 1_000,
    }
    items = [{"case": f"{kind}/{item}"} for item in range(its.items)]
    return JobSpec.model_validate({"name": kind, "items": items, "steps": [step]})


def _config() -> dict[str, Any]:
    tiers = list(MODELS)
    return {
        # As in the configuration that ships; without deadlines only audits take it.
        "models": {name: {"context_tokens": 100_000, "service_tiers": ["flex"]} for name in MODELS.values()},
        "tiers": {
            tier: {
                "model": MODELS[tier],
                "concurrency": CONCURRENCY,
                "background": "never",
                "escalate_to": following,
            }
            for tier, following in zip(tiers, [*tiers[1:], None], strict=True)
        },
        "audit": {"share": "auto", "floor": FLOOR},
    }


def _prices() -> dict[str, tuple[float, float]]:
    """Dollars per million tokens of input and output, by tier."""
    config = FleetConfig.model_validate(_config())
    # Of a usual size: calls with a long context cost more a token.
    usual = (Usage(input_tokens=1_000), Usage(output_tokens=1_000))
    return {
        tier: tuple(cost_nano_usd(*config.model_of(tier), usage) / 1e6 for usage in usual)  # type: ignore[misc]
        for tier in MODELS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--table",
        type=Path,
        action="append",
        help="a correctness table, YAML or JSON; more than one with --policy-only",
    )
    parser.add_argument("--policy-only", action="store_true", help="the policy alone, without a fleet")
    parser.add_argument(
        "--random",
        type=int,
        default=0,
        metavar="N",
        help="with --policy-only: N tables by chance, half of them leaking",
    )
    parser.add_argument("--seeds", type=int, default=1, help="with --policy-only: plays of each table")
    options = parser.parse_args()
    try:
        tables = {path.stem: load_table(path) for path in options.table or [TABLE]}
    except BadInputError as error:
        sys.exit(str(error))
    for name, table in tables.items():
        if set(table.tiers) != set(MODELS):
            sys.exit(f"The table {name} has the tiers {', '.join(table.tiers)}; this fleet has {', '.join(MODELS)}.")
    if options.policy_only:
        tables |= {f"random {seed}": random_table(seed, leaks=seed % 2 == 1) for seed in range(options.random)}
        play(tables, _prices(), options.seeds)
        return
    if len(tables) != 1:
        sys.exit("A fleet runs one table at a time; give one --table, or --policy-only.")
    ((name, table),) = tables.items()
    with tempfile.TemporaryDirectory() as folder:
        world, tallies, ended = measure(table, Path(folder))
    kinds = figures_of(world, tallies)
    report(world, kinds)
    plot(curves(world, kinds, ended), name)


if __name__ == "__main__":
    main()
