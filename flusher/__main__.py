"""`python -m flusher` is `ktx-flush`: the process entry, which imports the rest."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line. A Ctrl-C while the libraries load ends it without a traceback."""
    try:
        from flusher.cli import main as run  # noqa: PLC0415 - typer takes some 100 ms
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
