"""What is kept in files beside the queue: events aside, notes of losses, open commands, and what `audit` compares.

None of it needs the queue's lock, so it works while another process holds that, and it survives a kill. The flusher, or
the next host, takes events, losses and dead commands into the queue. Importing this loads no queue; `spans`, which
needs it, and `sightings` are imported as modules.
"""

from spool.beside import aside
from spool.beside.loss_notes import LossNotes
from spool.beside.places import make_way

__all__ = ["LossNotes", "aside", "make_way"]
