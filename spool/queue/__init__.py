"""The durable queue: one diskcache (`cache`), under a file lock (`lock`), with an account that adds up.

`Queue` is what others use, `FileLock` is every lock of ours.
Importing this loads diskcache, filelock and sqlite3: the first capture does, a command that is opted out doesn't.
"""

from spool.queue.cache import read_without_closing, sqlite_facts
from spool.queue.connection import DATABASE, FILES
from spool.queue.lock import FileLock
from spool.queue.queue import BY_FLUSHER, CHUNK, UNASKED, Queue
from spool.queue.transaction import REFUSED, Beside, DeadLetter, Row

__all__ = [
    "BY_FLUSHER",
    "CHUNK",
    "DATABASE",
    "FILES",
    "REFUSED",
    "UNASKED",
    "Beside",
    "DeadLetter",
    "FileLock",
    "Queue",
    "Row",
    "read_without_closing",
    "sqlite_facts",
]
