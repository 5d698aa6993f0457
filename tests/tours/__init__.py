"""Tours of an OpenAI-compatible server with the vendor's own clients, unmodified."""
