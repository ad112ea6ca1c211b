"""Run a program to its end and print, after all it printed, what it took: `spawn.py PROGRAM ARGUMENT...`.

A process of its own, and a small one: a child starts with the peak memory of the process that starts it.
"""

import os
import sys
import time

if sys.platform == "win32":
    sys.exit("this needs posix_spawn and wait4")

started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_pid, status, usage = os.wait4(child, 0)
wall = time.perf_counter() - started
unit = 1 if sys.platform == "darwin" else 1024
print(f"\n{os.waitstatus_to_exitcode(status)} {wall} {usage.ru_utime + usage.ru_stime} {usage.ru_maxrss * unit}")
