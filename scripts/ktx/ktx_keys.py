"""Foreign keys that a schema doesn't declare: proposed by names and types, proved by data."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SAMPLE_VALUES = 1_000  # enough to refute a chance match of names, few enough to look up in any table

# "Id" or "_id", not "id" alone: "paid" is no reference to "pa". A name can contain a newline.
_REFERENCE = re.compile(r"(?P<stem>.+?)(?:_id|_ID|_Id|Id|ID)", re.DOTALL)


class Column(NamedTuple):
    """One column as SQLite describes it."""

    name: str
    declared_type: str
    key_position: int  # 0: no part of the primary key


@dataclass(frozen=True, slots=True)
class Shape:
    """A table's schema, before its rows are looked at."""

    name: str
    columns: tuple[Column, ...]
    declared_fks: int
    declared_from: frozenset[str]  # the columns of declared foreign keys

    @property
    def key(self) -> Column | None:
        """The primary key, if it is one column: only then can one column refer to it."""
        key = [column for column in self.columns if column.key_position > 0]
        return key[0] if len(key) == 1 else None


def quoted(identifier: str) -> str:
    """Return `identifier` as SQL can contain it, whatever characters are in it."""
    return '"' + identifier.replace('"', '""') + '"'


def count_inferred(database: sqlite3.Connection, shape: Shape, shapes: Sequence[Shape]) -> int:
    """Count the columns of `shape` that refer to the key of one of `shapes` and aren't declared to.

    Each is proved: up to SAMPLE_VALUES distinct values, and at least one, all exist in the key. Raises
    sqlite3.Error.
    """
    undeclared = [column for column in shape.columns if column.name not in shape.declared_from]
    return sum(
        any(_holds(database, (shape.name, column.name), target) for target in _candidates(shape, column, shapes))
        for column in undeclared
    )


def names_of_one(table: str) -> set[str]:
    """Return what a column may call a row of `table`: its name and its possible singulars, folded."""
    name = _folded(table)
    names = {name}
    if name.endswith("s") and not name.endswith("ss"):
        names.add(name.removesuffix("s"))
    if name.endswith("es"):
        names.add(name.removesuffix("es"))
    if name.endswith("ies"):
        names.add(name.removesuffix("ies") + "y")
    return names - {""}


def type_family(declared_type: str) -> str:
    """Return "number", "text" or "blob": SQLite's rules of affinity, with its three numeric ones as one.

    Source: https://www.sqlite.org/datatype3.html#determination_of_column_affinity
    """
    kind = declared_type.upper()
    if "INT" in kind:
        return "number"
    if any(part in kind for part in ("CHAR", "CLOB", "TEXT")):
        return "text"
    return "blob" if "BLOB" in kind or not kind else "number"


def _folded(name: str) -> str:
    return name.replace("_", "").lower()  # order_item_id and orderItemId both name a row of OrderItems


def _candidates(shape: Shape, column: Column, shapes: Sequence[Shape]) -> Iterator[tuple[str, str]]:
    """Yield the (table, key column) pairs that the name and the type of `column` allow."""
    match = _REFERENCE.fullmatch(column.name)
    if match is None:
        return
    stem = _folded(match["stem"])
    for target in shapes:
        key = target.key
        if key is None or (target is shape and key is column):
            continue
        same_family = type_family(column.declared_type) == type_family(key.declared_type)
        if same_family and stem in names_of_one(target.name):
            yield target.name, key.name


def _holds(database: sqlite3.Connection, source: tuple[str, str], target: tuple[str, str]) -> bool:
    """Say whether every sampled value of the source column is in the target's key, and there is one."""
    table, column = map(quoted, source)
    key_table, key = map(quoted, target)
    seen, missing = database.execute(
        "SELECT count(*), total(NOT EXISTS"  # noqa: S608 - identifiers can't be bound; these four are quoted
        f" (SELECT 1 FROM main.{key_table} AS target WHERE target.{key} = sample.value))"
        f" FROM (SELECT DISTINCT source.{column} AS value FROM main.{table} AS source"
        f" WHERE source.{column} IS NOT NULL LIMIT {SAMPLE_VALUES}) AS sample"
    ).fetchone()
    return bool(seen > 0 and missing == 0)
