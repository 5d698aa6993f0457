"""Flower's settings: it only looks, at what workers tell of their work, and keeps the last of it. Who may look with it is not
decided here (`fleet flower --help`)."""

from fleet.flower_tasks import format_task  # noqa: F401  an option of Flower's: how a task is shown

read_only = True
# The latest tasks, of all tiers: a live view. What was done and what it cost is in the ledger for good.
max_tasks = 10_000
inspect_timeout = 2_000.0  # milliseconds
# Workers come and go with the load: what is told of one that is gone goes after so many seconds.
purge_offline_workers = 600
max_workers = 1_000
tasks_columns = "name,uuid,state,result,received,runtime,worker"
# Calls to models take seconds to minutes.
task_runtime_metric_buckets = [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0]
