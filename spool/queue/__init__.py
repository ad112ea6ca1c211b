"""The durable queue: one diskcache (`cache`), under a file lock (`lock`), with an account that adds up.

`Queue` is what others use, `FileLock` is every lock of ours, `signals_held` keeps signals out of what must not be cut.
Importing this loads diskcache, filelock and sqlite3: the first capture does, and a command that is opted out doesn't.
"""

from spool.queue.account import Account
from spool.queue.interrupts import signals_held
from spool.queue.lock import FileLock
from spool.queue.queue import Queue
from spool.queue.transaction import DeadLetter, Row

__all__ = ["Account", "DeadLetter", "FileLock", "Queue", "Row", "signals_held"]
