"""How a flusher is started, and where it delivers."""
