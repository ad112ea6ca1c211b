"""What delivers: drains a spool to PostHog. Run as `ktx-flush` or `python -m flusher`.

`run` does one pass, with `absorb` for the files aside and `delivery` for what waits. `commands` is the command line,
which shows what `events`, `exchange`, `report`, `schedule` and `doctor` find or do.
"""
