"""Make a sample database: `python scripts/ktx/sample_shop.py FILE`. Always the same shop, no network."""

import random
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

SEED = 20_240_229  # any number; a fixed one makes every shop the same

CUSTOMERS, CATEGORIES, PRODUCTS, ORDERS = 800, 12, 240, 2_500

# Three foreign keys are declared (addresses, orders, order_items). Three are left to be inferred: an order's
# address, an order item's product, a product's category. supplier_id refers to nothing; the view is no table.
SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT UNIQUE, since TEXT);
CREATE TABLE addresses (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id), street TEXT, city TEXT
);
CREATE TABLE categories (id INTEGER PRIMARY KEY, title TEXT NOT NULL);
CREATE TABLE products (
    id INTEGER PRIMARY KEY, category_id INTEGER NOT NULL, supplier_id INTEGER, title TEXT, price_cents INTEGER
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL REFERENCES customers (id), address_id INTEGER,
    placed_at TEXT
);
CREATE TABLE order_items (
    order_id INTEGER NOT NULL REFERENCES orders (id), line INTEGER NOT NULL, product_id INTEGER NOT NULL,
    quantity INTEGER NOT NULL, PRIMARY KEY (order_id, line)
) WITHOUT ROWID;
CREATE VIEW revenue AS
    SELECT order_id, sum(quantity * price_cents) AS cents
    FROM order_items JOIN products ON products.id = product_id GROUP BY order_id;
"""

Row = tuple[int | str, ...]


def make_shop(path: Path) -> None:
    """Make the shop at `path`, complete when this returns. Raises FileExistsError if anything is there."""
    path.touch(exist_ok=False)
    dice = random.Random(SEED)
    with closing(sqlite3.connect(path.absolute())) as database:
        database.executescript(SCHEMA)
        for table, rows in _tables(dice):
            places = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({places})", rows)  # noqa: S608 - our own names
        database.commit()


def _tables(dice: random.Random) -> Iterator[tuple[str, list[Row]]]:
    people = range(1, CUSTOMERS + 1)
    yield "customers", [(n, f"Customer {n}", f"customer{n}@example.com", _day(dice)) for n in people]
    # Address n is customer n's own, so that an order can be sent to the address of its customer.
    yield "addresses", [(n, n, f"{dice.randint(1, 99)} Main Street", f"Town {n % 40}") for n in people]
    yield "categories", [(n, f"Category {n}") for n in range(1, CATEGORIES + 1)]
    yield "products", [_product(n, dice) for n in range(1, PRODUCTS + 1)]
    yield "orders", [_order(n, dice.randint(1, CUSTOMERS), dice) for n in range(1, ORDERS + 1)]
    yield "order_items", [item for n in range(1, ORDERS + 1) for item in _items(n, dice)]


def _product(number: int, dice: random.Random) -> Row:
    supplier = dice.randint(1, 30)
    return number, dice.randint(1, CATEGORIES), supplier, f"Product {number}", dice.randint(100, 99_999)


def _order(number: int, customer: int, dice: random.Random) -> Row:
    return number, customer, customer, _day(dice)


def _items(order: int, dice: random.Random) -> list[Row]:
    lines = range(1, dice.randint(1, 4) + 1)
    return [(order, line, dice.randint(1, PRODUCTS), dice.randint(1, 5)) for line in lines]


def _day(dice: random.Random) -> str:
    return f"{dice.randint(2019, 2024)}-{dice.randint(1, 12):02}-{dice.randint(1, 28):02}"


def main() -> None:
    """Make the shop at the path that the command line names. Exit code 2 if it names none or one in use."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and its one argument
        sys.exit(_complain("usage: sample_shop.py FILE"))
    try:
        make_shop(Path(sys.argv[1]))
    except OSError as error:
        sys.exit(_complain(f"sample_shop: {sys.argv[1]}: {error.strerror}"))


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
