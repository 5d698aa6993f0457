"""The API under requests made up from its own OpenAPI: `python -m tests.fuzz`."""
