"""Scan a SQLite database without changing it: its tables, columns, rows and foreign keys."""

import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal

from ktx_keys import Column, Shape, count_inferred, quoted

RowsBucket = Literal["<10k", "<100k", "<1M", "<10M", ">=10M"]

BUSY_TIMEOUT_S = 1.0  # a writer's ordinary commit is over by then; a longer lock is worth telling the user


class Fault(StrEnum):
    """Why a database can't be scanned. The value is the error class that telemetry reports."""

    MISSING = "FileNotFoundError"
    DIRECTORY = "IsADirectoryError"
    NOT_A_FILE = "NotAFileError"
    NOT_A_DATABASE = "NotADatabaseError"
    LOCKED = "DatabaseLockedError"
    DAMAGED = "DatabaseDamagedError"
    UNREADABLE = "UnreadableError"


class ScanError(Exception):
    """A database can't be scanned; nothing was changed.

    `str(error)` is for the user and names the file; `error_class` is for telemetry and never does.
    """

    def __init__(self, message: str, error_class: Fault) -> None:
        super().__init__(message)
        self.error_class = error_class


@dataclass(frozen=True, slots=True)
class Table:
    """One scanned table."""

    name: str
    columns: int
    rows: int
    declared_fks: int
    inferred_fks: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found."""

    schema_count: int
    tables: tuple[Table, ...]

    @property
    def table_count(self) -> int:
        """Ordinary tables: no views, no virtual tables, none of SQLite's own."""
        return len(self.tables)

    @property
    def column_count(self) -> int:
        """Columns of all tables, generated ones included."""
        return sum(table.columns for table in self.tables)

    @property
    def row_count(self) -> int:
        """Rows of all tables, each counted when its turn came."""
        return sum(table.rows for table in self.tables)

    @property
    def declared_fk_count(self) -> int:
        """Foreign keys that the schema declares; one of several columns counts once."""
        return sum(table.declared_fks for table in self.tables)

    @property
    def inferred_fk_count(self) -> int:
        """Columns that names, types and data show to be foreign keys, and that aren't declared."""
        return sum(table.inferred_fks for table in self.tables)

    @property
    def rows_bucket(self) -> RowsBucket:
        """The order of magnitude of `row_count`, which is all that telemetry learns of it."""
        return rows_bucket(self.row_count)


NO_SCAN = Scan(schema_count=0, tables=())  # what is known of a database that couldn't be scanned


def rows_bucket(rows: int) -> RowsBucket:
    """Return the bucket of a number of rows; a bucket's upper bound is not in it."""
    bounds: tuple[tuple[int, RowsBucket], ...] = (
        (10_000, "<10k"),
        (100_000, "<100k"),
        (1_000_000, "<1M"),
        (10_000_000, "<10M"),
    )
    return next((bucket for bound, bucket in bounds if rows < bound), ">=10M")


def preflight(path: Path) -> None:
    """Return if a regular file is at `path`, else raise ScanError. Opens nothing: a pipe can't block it."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScanError(f"{path}: there is no such file", Fault.MISSING) from error
    except OSError as error:
        raise ScanError(f"{path}: can't be read ({error.strerror})", Fault.UNREADABLE) from error
    if stat.S_ISDIR(mode):
        raise ScanError(f"{path}: is a directory, not a database file", Fault.DIRECTORY)
    if not stat.S_ISREG(mode):
        raise ScanError(f"{path}: is not a regular file", Fault.NOT_A_FILE)


def scan(path: Path, pause_s: float = 0.0, on_table: Callable[[Table], None] = lambda _: None) -> Scan:
    """Scan the SQLite database at `path`; after each table call `on_table`, then sleep `pause_s` seconds.

    The file is opened read-only and its bytes never change; beside a database in WAL mode SQLite may leave
    its usual -wal and -shm files. No lock is held during a pause, so a writer can work between two tables.
    Raises ScanError for whatever keeps the database from being read.
    """
    preflight(path)
    tables: list[Table] = []
    try:
        with closing(_open_read_only(path)) as database:
            shapes = _read_shapes(database)
            for shape in shapes:
                tables.append(_scan_table(database, shape, shapes))
                on_table(tables[-1])
                time.sleep(pause_s)
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    return Scan(schema_count=1, tables=tuple(tables))


def _open_read_only(path: Path) -> sqlite3.Connection:
    # as_uri() percent-encodes the bytes of the path, so no character in it can end it or add an option.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)


def _read_shapes(database: sqlite3.Connection) -> list[Shape]:
    names = database.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        r" AND name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY name"
    ).fetchall()
    return [_read_shape(database, name) for (name,) in names]


def _read_shape(database: sqlite3.Connection, table: str) -> Shape:
    columns = database.execute("SELECT name, type, pk FROM pragma_table_xinfo(?)", (table,)).fetchall()
    keys = database.execute('SELECT id, "from" FROM pragma_foreign_key_list(?)', (table,)).fetchall()
    return Shape(
        name=table,
        columns=tuple(Column(*column) for column in columns),
        declared_fks=len({key for key, _ in keys}),
        declared_from=frozenset(column for _, column in keys),
    )


def _scan_table(database: sqlite3.Connection, shape: Shape, shapes: list[Shape]) -> Table:
    count = f"SELECT count(*) FROM main.{quoted(shape.name)}"  # noqa: S608 - a table's name can't be bound
    (rows,) = database.execute(count).fetchone()
    return Table(
        name=shape.name,
        columns=len(shape.columns),
        rows=rows,
        declared_fks=shape.declared_fks,
        inferred_fks=count_inferred(database, shape, shapes),
    )


def _explained(path: Path, error: sqlite3.Error) -> ScanError:
    # The low byte is SQLite's primary result code; an error of the Python module itself carries none.
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_NOTADB:
            return ScanError(f"{path}: is not a SQLite database, or is encrypted", Fault.NOT_A_DATABASE)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return ScanError(f"{path}: is locked by another program; try again later", Fault.LOCKED)
        case sqlite3.SQLITE_CORRUPT:
            return ScanError(f"{path}: is damaged ({error})", Fault.DAMAGED)
        case _:
            return ScanError(f"{path}: can't be read ({error})", Fault.UNREADABLE)
