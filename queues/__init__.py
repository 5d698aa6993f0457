"""Distributed queues for capacity-limited work: Celery delivers, our store decides.

A leaf package: it moves ids and shares out capacity. It knows tiers, jobs, subtasks, claims, permits and gates as ids
and numbers; it never imports `fleet`, reads no files and has never heard of a prompt, a model or a dollar.
"""
