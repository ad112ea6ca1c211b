"""The example host's scan: what it counts, what it refuses, and that it changes nothing."""

import os
import random
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

# The example is no package: its modules are found as `python scripts/ktx` finds them.
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts" / "ktx"))

from ktx_keys import names_of_one, type_family
from ktx_scan import Fault, Scan, ScanError, Table, rows_bucket, scan
from sample_shop import make_shop

CUSTOMERS = "CREATE TABLE customers (id INTEGER PRIMARY KEY); INSERT INTO customers VALUES (7);"
CUSTOMER_7 = "INSERT INTO source VALUES (7), (NULL)"


def make(path: Path, script: str) -> Path:
    """Run `script` on the database at `path`, and close it."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)
    return path


def inferred(folder: Path, column: str, target: str, values: str) -> int:
    """Count the inferred keys of a table with this one column, beside the table that `target` makes."""
    return scan(make(folder / "a.db", f"{target}; CREATE TABLE source ({column}); {values}")).inferred_fk_count


def refusal(path: Path) -> tuple[Fault, str]:
    """Scan what can't be scanned: the error class, and the message without the path that it begins with."""
    with pytest.raises(ScanError) as caught:
        scan(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.error_class, str(caught.value).removeprefix(f"{path}: ")


def test_every_count_is_right_on_a_database_with_declared_and_inferred_keys(tmp_path: Path) -> None:
    """The sample shop is known to the last row; its view and its supplier_id count for nothing."""
    make_shop(tmp_path / "shop.db")
    found = scan(tmp_path / "shop.db")
    assert (found.schema_count, found.table_count, found.column_count) == (1, 6, 23)
    assert (found.declared_fk_count, found.inferred_fk_count, found.rows_bucket) == (3, 3, "<100k")
    assert Table("orders", columns=4, rows=2_500, declared_fks=1, inferred_fks=1) in found.tables


def test_the_sample_shop_is_always_the_same(tmp_path: Path) -> None:
    """Two shops are equal byte by byte, and a shop never replaces a file."""
    make_shop(tmp_path / "one.db")
    make_shop(tmp_path / "two.db")
    assert (tmp_path / "one.db").read_bytes() == (tmp_path / "two.db").read_bytes()
    with pytest.raises(FileExistsError):
        make_shop(tmp_path / "one.db")


def test_a_declared_key_counts_once_and_is_not_inferred_again(tmp_path: Path) -> None:
    """One of two columns is one key, and a column's spelling in the declaration does not matter."""
    pair = f"{CUSTOMERS} CREATE TABLE pair (a INTEGER, b INTEGER, PRIMARY KEY (a, b))"
    keys = "FOREIGN KEY (PAIR_ID, b) REFERENCES pair, FOREIGN KEY (customer_id) REFERENCES customers"
    source = f"CREATE TABLE source (pair_id INTEGER, b INTEGER, Customer_Id INTEGER, {keys})"
    path = make(tmp_path / "a.db", f"{pair}; {source}")
    found = scan(make(path, "INSERT INTO source VALUES (1, 1, 7)"))
    assert (found.declared_fk_count, found.inferred_fk_count) == (2, 0)


@pytest.mark.parametrize("column", ["customers_id", "customer_id", "customerId", "CustomerID", "CUSTOMER_ID"])
def test_a_reference_is_inferred_from_name_type_and_data(tmp_path: Path, column: str) -> None:
    """The table's name or its singular, with _id or Id; an absent value is no objection."""
    assert inferred(tmp_path, f"{column} BIGINT", CUSTOMERS, CUSTOMER_7) == 1


def test_a_key_does_not_refer_to_itself(tmp_path: Path) -> None:
    """customers.customer_id is that table's own key."""
    assert scan(make(tmp_path / "a.db", CUSTOMERS.replace("id", "customer_id"))).inferred_fk_count == 0


KEY, PAIR = "id INTEGER PRIMARY KEY", "id INTEGER, b INTEGER, PRIMARY KEY (id, b)"
MISMATCHES = {
    "no suffix": (KEY, "customerid INT", CUSTOMER_7),
    "another name": (KEY, "client_id INT", CUSTOMER_7),
    "another type": (KEY, "customer_id TEXT", CUSTOMER_7),
    "a value that is no key": (KEY, "customer_id INT", "INSERT INTO source VALUES (7), (8)"),
    "only nulls": (KEY, "customer_id INT", "INSERT INTO source VALUES (NULL)"),
    "no rows": (KEY, "customer_id INT", ""),
    "no key": ("id INTEGER", "customer_id INT", CUSTOMER_7),
    "a key of two columns": (PAIR, "customer_id INT", CUSTOMER_7),
}


@pytest.mark.parametrize(("key", "column", "values"), MISMATCHES.values(), ids=MISMATCHES)
def test_no_reference_is_inferred_without_proof(tmp_path: Path, key: str, column: str, values: str) -> None:
    """Name, type, key and data must agree, and no data prove nothing."""
    target = f"CREATE TABLE customers ({key}); INSERT INTO customers (id) VALUES (7)"  # noqa: S608 - ours
    assert inferred(tmp_path, column, target, values) == 0


def test_names_and_types_follow_their_rules() -> None:
    """The right singular is among the possible ones; affinities are those of SQLite's documentation."""
    singulars = {"OrderItems": "orderitem", "categories": "category", "movies": "movie", "boxes": "box"}
    assert all(one in names_of_one(table) for table, one in singulars.items())
    assert names_of_one("address") == {"address"}
    assert {type_family(kind) for kind in ("INT8", "CHARINT", "REAL", "DECIMAL(9,2)")} == {"number"}
    assert [type_family(kind) for kind in ("VARCHAR(9)", "BLOB", "")] == ["text", "blob", "blob"]


def test_only_ordinary_tables_count(tmp_path: Path) -> None:
    """No view, no internal table, no virtual table, even without its module; an empty file has none."""
    script = """
        CREATE TABLE real (id INTEGER PRIMARY KEY AUTOINCREMENT, b AS (id * 2)); INSERT INTO real VALUES (1);
        CREATE VIEW seen AS SELECT * FROM real; CREATE VIEW broken AS SELECT * FROM nowhere;
        CREATE TABLE lost (a); PRAGMA writable_schema = ON; UPDATE sqlite_master
        SET rootpage = 0, sql = 'CREATE VIRTUAL TABLE lost USING no_such_module(a)' WHERE name = 'lost';
    """
    real = Table("real", columns=2, rows=1, declared_fks=0, inferred_fks=0)
    assert scan(make(tmp_path / "a.db", script)) == Scan(schema_count=1, tables=(real,))
    assert scan(make(tmp_path / "empty.db", "")) == Scan(schema_count=1, tables=())


def test_a_bucket_ends_before_its_bound() -> None:
    """Both sides of each boundary."""
    sizes = [9_999, 99_999, 999_999, 9_999_999]
    assert [rows_bucket(rows) for rows in sizes] == ["<10k", "<100k", "<1M", "<10M"]
    assert [rows_bucket(rows + 1) for rows in sizes] == ["<100k", "<1M", "<10M", ">=10M"]


@pytest.mark.parametrize("name", ['a"b', "a'b", "two words", "表 🙂", "a;DROP TABLE x--", "select", "a\nb"])
def test_hostile_table_and_column_names_are_only_names(tmp_path: Path, name: str) -> None:
    """Rows are counted and a reference is proved whatever an identifier contains."""
    key, column, source = ('"' + text.replace('"', '""') + '"' for text in (name, f"{name}_id", f"{name}!"))
    target = f"CREATE TABLE {key} ({key} TEXT PRIMARY KEY); INSERT INTO {key} VALUES ('k')"  # noqa: S608 - quoted
    values = f"CREATE TABLE {source} ({column} TEXT); INSERT INTO {source} VALUES ('k'), ('k')"  # noqa: S608 - quoted
    tables = scan(make(tmp_path / "a.db", f"{target}; {values}")).tables
    assert {(one.name, one.rows, one.inferred_fks) for one in tables} == {(name, 1, 0), (f"{name}!", 2, 1)}


@pytest.mark.parametrize("name", ["two words.db", "what?mode=rwc", "a#b.db", "100%25.db", "naïve 表.db"])
def test_hostile_file_names_are_only_names(tmp_path: Path, name: str) -> None:
    """Nothing in a path is read as an option of the URI, and no other file appears beside it."""
    path = make(tmp_path / name, "CREATE TABLE t (a)")
    before = set(tmp_path.iterdir())
    assert (scan(path).table_count, set(tmp_path.iterdir())) == (1, before)


def test_a_scan_changes_no_byte_of_the_database(tmp_path: Path) -> None:
    """Not even where a killed writer left a log, which every ordinary reader folds in."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as writer:
        writer.executescript("PRAGMA journal_mode = wal; CREATE TABLE t (a)")
        kept = Path(shutil.copy(tmp_path / "a.db", tmp_path / "kept.db"))
        shutil.copy(tmp_path / "a.db-wal", tmp_path / "kept.db-wal")
    before = kept.read_bytes()
    assert (scan(kept).table_count, kept.read_bytes()) == (1, before)


def test_a_writer_can_work_between_two_tables(tmp_path: Path) -> None:
    """A slow scan holds no lock while it pauses, and sees what was written meanwhile."""
    path = make(tmp_path / "busy.db", "CREATE TABLE a (x); CREATE TABLE b (x);")

    def write(_: Table) -> None:
        make(path, "INSERT INTO b VALUES (1)")

    assert [table.rows for table in scan(path, on_table=write).tables] == [0, 1]


def test_every_bad_input_is_refused_with_its_reason(tmp_path: Path) -> None:
    """One error class and one message each, and a missing file is not created."""
    if sys.platform == "win32":
        pytest.skip("no pipes with names here")
    pipe, text, noise, damaged = (tmp_path / name for name in ("pipe", "text", "noise", "damaged"))
    os.mkfifo(pipe)  # opening it would wait for ever
    text.write_bytes(b"id,name\n1,a\n")
    noise.write_bytes(b"SQLite format 3\0" + random.Random(1).randbytes(5_000))
    make_shop(damaged)
    damaged.write_bytes(damaged.read_bytes()[:4096] + b"\xff" * 100_000)
    expected = {
        tmp_path / "missing.db": (Fault.MISSING, "there is no such file"),
        text / "missing.db": (Fault.MISSING, "there is no such file"),
        tmp_path: (Fault.DIRECTORY, "is a directory, not a database file"),
        pipe: (Fault.NOT_A_FILE, "is not a regular file"),
        text: (Fault.NOT_A_DATABASE, "is not a SQLite database, or is encrypted"),
        noise: (Fault.NOT_A_DATABASE, "is not a SQLite database, or is encrypted"),
        damaged: (Fault.DAMAGED, "is damaged (database disk image is malformed)"),
        tmp_path / ("x" * 5_000): (Fault.UNREADABLE, "can't be read (File name too long)"),
    }
    assert {path: refusal(path) for path in expected} == expected
    assert not (tmp_path / "missing.db").exists()


def test_a_locked_database_is_refused_after_a_short_wait(tmp_path: Path) -> None:
    """And can be scanned when the writer is done."""
    path = make(tmp_path / "locked.db", "CREATE TABLE t (a)")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert refusal(path) == (Fault.LOCKED, "is locked by another program; try again later")
    assert scan(path).table_count == 1
