"""posthog-python captures COUNT events and flushes them: `drain_posthog.py HOST COUNT`."""

import sys

from posthog import Posthog

NOTE = {"tableCount": 12, "columnCount": 140, "outcome": "ok", "durationMs": 4711, "note": "x" * 300}


def main(host: str, count: int) -> None:
    """Capture all, then shut down; a queue as long as the backlog, for a full one drops events."""
    posthog = Posthog("phc_bench", host=host, flush_at=500, max_queue_size=count + 1)
    for _ in range(count):
        posthog.capture("scan_completed", distinct_id="install", properties=NOTE)
    posthog.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
