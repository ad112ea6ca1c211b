"""Where the files of a home are (`Paths`), and how they are read and written: privately, whole, never through a link.

A descriptor that stays open is a `Descriptor`; what opens files by itself does so in `streams_kept_free`.

Anything below the home may have been put there by others, or be damaged: nothing here follows a link, waits for a
pipe, or reads more than a limit. What is in the way goes to `quarantine/`.
"""

from spool.home.descriptors import Descriptor, lowest_free, open_numbers, streams_kept_free
from spool.home.files import (
    Kind,
    Signature,
    is_odd,
    is_plain,
    listed,
    make_folder,
    oddity,
    open_found,
    open_own,
    private_folder,
    publish,
    read_bounded,
    read_state,
    restore_mode,
    signature,
    sync_folder,
    write_atomic,
    write_new,
)
from spool.home.mounts import file_system, has_modes, is_network
from spool.home.paths import Paths, resolve_home
from spool.home.quarantine import Quarantine, write_state
from spool.home.under_test import home_under_test, is_for_tests, under_test

__all__ = [
    "Descriptor",
    "Kind",
    "Paths",
    "Quarantine",
    "Signature",
    "file_system",
    "has_modes",
    "home_under_test",
    "is_for_tests",
    "is_network",
    "is_odd",
    "is_plain",
    "listed",
    "lowest_free",
    "make_folder",
    "oddity",
    "open_found",
    "open_numbers",
    "open_own",
    "private_folder",
    "publish",
    "read_bounded",
    "read_state",
    "resolve_home",
    "restore_mode",
    "signature",
    "streams_kept_free",
    "sync_folder",
    "under_test",
    "write_atomic",
    "write_new",
    "write_state",
]
