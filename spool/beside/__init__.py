"""What stands beside the queue, a file each: events that went aside, notes of losses, open commands.

None of it needs the queue's lock, so it works while somebody else holds that, and survives a kill. The flusher, or the
next host, takes it into the queue.
"""

from spool.beside import aside
from spool.beside.loss_notes import LossNotes
from spool.beside.spans import OpenSpan, recover

__all__ = ["LossNotes", "OpenSpan", "aside", "recover"]
