"""Flower's settings: it only looks, on loopback, and keeps nothing it should not know (arguments and results are ids)."""

address = "127.0.0.1"
read_only = True
# Tasks it keeps in memory: a live view, not the history; that is the ledger's.
max_tasks = 10_000
persistent = False
inspect_timeout = 2_000.0  # milliseconds
