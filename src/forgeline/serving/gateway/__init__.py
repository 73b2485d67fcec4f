"""The only public door: an OpenAI-compatible HTTP server in front of an engine."""
