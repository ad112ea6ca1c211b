"""Runs before the app's own first line: an app that was started to deliver does nothing else."""

import os

if os.environ.get("KTX_SPOOL_RUN"):
    from spool.launch.mark import become_flusher

    become_flusher()
