"""The event that every peer captures: some 540 bytes as our queue holds it, with our envelope."""

PROPERTIES = {"tableCount": 12, "columnCount": 140, "outcome": "ok", "durationMs": 4711, "source": "postgres"}
# What stands for it where a queue takes a text.
TEXT_BYTES = 420
TEXT = '{"event":"work_done","properties":{"note":"%s"}}'
TEXT %= "x" * (TEXT_BYTES - len(TEXT) + 2)
