"""Runs before the app's own first line: an app that was started to deliver does nothing else."""

import os

if "KTX_SPOOL_RUN" in os.environ:
    from spool.launch.mark import become_flusher

    become_flusher()
