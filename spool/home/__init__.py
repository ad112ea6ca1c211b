"""Where the files of a home are (`Paths`), and how they are read and written: privately, whole, never through a link.

A descriptor that stays open is a `Descriptor`; what opens files by itself does so in `streams_kept_free`.

Anything below the home may have been put there by others, or be damaged: nothing here follows a link, waits for a
pipe, or reads more than a limit.
"""

from spool.home.descriptors import Descriptor, lowest_free, open_numbers, streams_kept_free
from spool.home.files import (
    Signature,
    open_own,
    private_folder,
    publish,
    read_bounded,
    refuse_links,
    signature,
    sync_folder,
    write_atomic,
    write_new,
)
from spool.home.mounts import file_system, is_network
from spool.home.paths import Paths, resolve_home

__all__ = [
    "Descriptor",
    "Paths",
    "Signature",
    "file_system",
    "is_network",
    "lowest_free",
    "open_numbers",
    "open_own",
    "private_folder",
    "publish",
    "read_bounded",
    "refuse_links",
    "resolve_home",
    "signature",
    "streams_kept_free",
    "sync_folder",
    "write_atomic",
    "write_new",
]
