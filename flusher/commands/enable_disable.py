"""`ktx-flush enable` and `ktx-flush disable`: the decision about telemetry, for this install."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import typer

# Loaded before root becomes the owner of a home, who may not be allowed to read this package.
import spool.queue.recovery  # noqa: F401 - an opt-out replaces the queue
from flusher.commands.shared import Quiet, complain, consent_of, identity_of, own_home
from flusher.homes import is_install, similar
from flusher.text import counted, error_words, printable
from spool.beside.wipe import wipe
from spool.consent import HomeState, decide_for_all, home_state
from spool.errors import ConfigurationError, SpoolError
from spool.home import Paths

__all__ = ["disable_command", "enable_command"]

_LONGEST = 2_000


def enable_command(context: typer.Context, quiet: Quiet = False) -> None:
    """Switch telemetry on for this install. It also mends a telemetry.json that doesn't read.

    Examples:
      ktx-flush enable
      ktx-flush --app mycli enable
    """
    paths = own_home(context)
    _decide(context, paths, enabled=True)
    identity = identity_of(context)
    if not quiet:
        typer.echo("telemetry is on" if identity.enabled else f"telemetry stays off here, by {identity.decided_by}")


def disable_command(context: typer.Context, quiet: Quiet = False) -> None:
    """Switch telemetry off for this install, and delete everything that waits. Root does it as the owner of the home.

    Examples:
      ktx-flush disable
      ktx-flush --app mycli disable
    """
    _name, paths = context.obj
    if home_state(paths.home) is HomeState.FOREIGN:
        _become_owner(paths.home)
    known = is_install(paths.home)
    _decide(context, paths, enabled=False)
    home = printable(str(paths.home), _LONGEST)
    try:
        gone = wipe(paths, consent_of(context).signature)
    except (SpoolError, OSError) as error:
        complain(f"telemetry is off for {home}, but what waits there was not deleted: {error_words(error)}")
        raise typer.Exit(1) from error
    said = f"telemetry is off for {home}; deleted: {counted(gone.events, 'event')} that waited"
    if gone.left:
        said = f"telemetry is off for {home}; the next run deletes what is left: {gone.left}"
    if not known:
        said = f"telemetry is off for {home}, where no install was found{similar(paths.home)}"
    if not quiet:
        typer.echo(said)
    elif not known:
        complain(said)


def _decide(context: typer.Context, paths: Paths, *, enabled: bool) -> None:
    """Write the decision down; where that can't be done, say what telemetry is therefore, and exit with 1."""
    try:
        decide_for_all(paths, enabled=enabled)
    except (SpoolError, OSError) as error:
        identity = identity_of(context)
        stays = "on" if identity.enabled else "off"
        complain(f"telemetry stays {stays} (decided by {identity.decided_by}): {error_words(error)}")
        raise typer.Exit(1) from error


# -- root in the home of a user -------------------------------------------------------------------------------


def _become_owner(home: Path) -> None:
    """Go on as the user whom the home belongs to: what root wrote there, that user could never write again.

    For `disable` alone: to say no is what whoever calls it wants, and for a yes the owner has to be asked.
    """
    why = f"{home} belongs to another user: run this as its owner; nothing was touched"
    if sys.platform == "win32" or os.geteuid() != 0:
        raise ConfigurationError(why)
    import pwd

    place = home
    while not os.path.lexists(place):
        place = place.parent
    link, folder = os.lstat(place), os.stat(place)
    owner = link if link.st_uid else folder  # who made a link says where it leads
    try:
        groups = [owner.st_gid]
        with suppress(KeyError):  # a container knows no names of its host's users
            account = pwd.getpwuid(owner.st_uid)
            groups = os.getgrouplist(account.pw_name, account.pw_gid)
        os.setgroups(groups)
        os.setgid(groups[0])
        os.setuid(owner.st_uid)
    except OSError as error:
        raise ConfigurationError(why) from error
