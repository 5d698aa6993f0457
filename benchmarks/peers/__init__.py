"""The same model call in the tasks of other queues; run in an environment of their own (requirements/peers.txt)."""
