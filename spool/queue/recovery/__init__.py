"""How a queue comes into being, is replaced, and is rebuilt of what reads of a damaged one.

For the queue alone, which imports this when it has none, after damage, and at an opt-out: no usual command does.
"""

from spool.queue.recovery.replacement import counters, create, rebuild, replace

__all__ = ["counters", "create", "rebuild", "replace"]
