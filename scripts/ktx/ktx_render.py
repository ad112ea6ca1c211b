"""What the user sees of a scan: a table, or JSON."""

import json

from ktx_scan import Scan


def printable(text: str) -> str:
    """Return `text` on one line and without terminal escapes: names of tables and files can hold both."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def as_text(found: Scan) -> str:
    """Return a table for people, its last line the sums."""
    names = [printable(table.name) for table in found.tables]
    width = max(len(name) for name in ["table", *names])
    lines = [f"{'table':{width}}  columns        rows  declared  inferred"]
    lines += [
        f"{name:{width}}  {table.columns:7}  {table.rows:10,}  {table.declared_fks:8}  {table.inferred_fks:8}"
        for name, table in zip(names, found.tables, strict=True)
    ]
    size = f"{found.table_count} tables, {found.column_count} columns, {found.row_count:,} rows"
    keys = f"{found.declared_fk_count} declared and {found.inferred_fk_count} inferred foreign keys"
    return "\n".join([*lines, "", f"{size}, {keys}"])


def as_json(found: Scan) -> str:
    """Return one ASCII JSON object on one line, for programs."""
    return json.dumps(
        {
            "schemaCount": found.schema_count,
            "tableCount": found.table_count,
            "columnCount": found.column_count,
            "declaredFkCount": found.declared_fk_count,
            "inferredFkCount": found.inferred_fk_count,
            "rowsBucket": found.rows_bucket,
            "tables": [
                {
                    "name": table.name,
                    "columns": table.columns,
                    "rows": table.rows,
                    "declaredFks": table.declared_fks,
                    "inferredFks": table.inferred_fks,
                }
                for table in found.tables
            ],
        }
    )
