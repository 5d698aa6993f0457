"""The verdict on all rounds: which figures fail the run, and which are only told.

It knows figures by name and their limits, and nothing of how they came to be.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Figures that must be zero.
ZERO = (
    "jobs_unfinished",
    "subtasks_lost",
    "gates_not_once",
    "paid_twice_outside_window",
    "restart_paid_twice",
    "stale_writes",
    "budget_overshoot_nano",
    "wrong_books",
    "scenarios_failed",
)
#: Aims that depend on how busy the machine is: at most, and at least.
AT_MOST = {"recovery_p99_over_lease_s": 10.0}
AT_LEAST = {"poison_throughput_kept": 0.9}


def failures(figures: Mapping[str, float], *, asked: int, wrong_clocks: bool) -> list[str]:
    """What fails the run; `asked`: the kills at failpoints, `wrong_clocks`: some processes had one."""
    found = [f"{name} is {figures[name]:g}, not 0" for name in ZERO if figures[name]]
    if figures["paid_twice_per_kill"] > figures["in_flight_per_process"]:
        found.append(
            f"paid_twice_per_kill is {figures['paid_twice_per_kill']:g}, more than a process has in flight "
            f"({figures['in_flight_per_process']:g})"
        )
    if figures["kills"] < asked:
        found.append(f"kills is {figures['kills']:g}, fewer than {asked}")
    if wrong_clocks and not figures["calls_by_wrong_clocks"]:
        found.append("calls_by_wrong_clocks is 0: none was tried")
    return found


def missed(figures: Mapping[str, float]) -> list[str]:
    """The aims that were missed: name, value and limit of each."""
    over = [f"{name} {figures[name]:g} ({most:g})" for name, most in AT_MOST.items() if figures[name] > most]
    return over + [f"{name} {figures[name]:g} ({least:g})" for name, least in AT_LEAST.items() if figures[name] < least]
