"""The simulated provider: an OpenAI-compatible server with limits, latency, faults and a charge log."""
