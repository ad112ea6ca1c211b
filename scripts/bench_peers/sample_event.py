"""The event that every peer captures: about 420 bytes as a queue holds it, with our envelope."""

PROPERTIES = {"tableCount": 12, "columnCount": 140, "outcome": "ok", "durationMs": 4711, "source": "postgres"}
# The same, for queues that take a text.
TEXT_BYTES = 420
TEXT = '{"event":"work_done","properties":{"note":"%s"}}'
TEXT %= "x" * (TEXT_BYTES - len(TEXT) + 2)
