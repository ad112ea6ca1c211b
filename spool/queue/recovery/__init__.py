"""How a queue is created, copied, replaced, and rebuilt from the rows of a damaged one that can be read.

Only `queue.py` uses this: when there is no queue yet, after damage, and at an opt-out. Most commands never load it.
"""

from spool.queue.recovery.look import damage_in
from spool.queue.recovery.replacement import counters, create, rebuild, rebuild_empty, renew, replace

__all__ = ["counters", "create", "damage_in", "rebuild", "rebuild_empty", "renew", "replace"]
