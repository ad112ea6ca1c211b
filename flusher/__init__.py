"""What delivers: drains a spool to PostHog. Run as `ktx-flush` or `python -m flusher`."""
