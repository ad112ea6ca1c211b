"""Examples of events, right and wrong, made from a JSON Schema; and a judge that shares no code with the spool.

The judge knows the keywords that the reference uses, and fails on any other instead of passing over it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

# ktx's own schema, names, types and bounds only.
REFERENCE: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "ktx-events.reference.json").read_text(encoding="utf-8")
)
COMMON: list[str] = REFERENCE["x-ktx-common-fields"]

# Values at the edges of types and bounds: each is right for some field and wrong for the others.
ODD: list[Any] = [
    *(None, True, False),
    *(0, 1, 1.0, 2, -1, -0.0, 0.5, 3.0, -5e-324, 1.7976931348623157e308),
    *(2**53 - 1, float(2**53 - 1), 2**53, 2**63, -(2**53), 10**308, 10**400, math.nan, math.inf, -math.inf),
    *("", "ok", "error", "OK", "ok ", "<10k", "node", "1", "true", "null", "x" * 1000, "x" * 1001),
    *("é" * 1000, "\U0001f600" * 1000, "\U0001f600" * 1001, "a\0b", "\u2028"),
    *([], [""], ["a", "b"], [1], [None], [[]], [{}], [{"driver": "x", "isDemo": True}]),
    *([{"driver": "x"}], [{"driver": "x", "isDemo": 1}], [{"driver": "x", "isDemo": True, "more": 1}]),
    *({}, {"a": True}, {"a": 1}, {"a": None}, {"": False}, {"a": {"b": True}}, {"driver": "x", "isDemo": True}),
]


def _is_number(value: Any) -> bool:
    largest = 1.7976931348623157e308  # what is beyond becomes infinite in JavaScript
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: value is True or value is False,
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "number": _is_number,
    "integer": lambda value: _is_number(value) and value == math.floor(value),
}


def _same(left: object, right: object) -> bool:
    return left == right and isinstance(left, bool) == isinstance(right, bool)


def _every_name_fits(schema: dict[str, Any], value: dict[str, Any]) -> bool:
    properties, others = schema.get("properties", {}), schema["additionalProperties"]
    for name, item in value.items():
        rule = properties.get(name, others)
        if rule is False or (rule is not True and not conforms(rule, item)):
            return False
    return True


_KEYWORDS: dict[str, Callable[[dict[str, Any], Any], bool]] = {
    "$schema": lambda _schema, _value: True,
    "description": lambda _schema, _value: True,
    "type": lambda schema, value: _TYPES[schema["type"]](value),
    "enum": lambda schema, value: any(_same(value, one) for one in schema["enum"]),
    "const": lambda schema, value: _same(value, schema["const"]),
    "minimum": lambda schema, value: value >= schema["minimum"],
    "maximum": lambda schema, value: value <= schema["maximum"],
    "maxLength": lambda schema, value: len(value) <= schema["maxLength"],
    "minItems": lambda schema, value: len(value) >= schema["minItems"],
    "items": lambda schema, value: all(conforms(schema["items"], item) for item in value),
    "required": lambda schema, value: all(name in value for name in schema["required"]),
    "properties": lambda _schema, _value: True,  # judged with the names that are not listed
    "propertyNames": lambda schema, value: all(conforms(schema["propertyNames"], name) for name in value),
    "additionalProperties": _every_name_fits,
}


def conforms(schema: dict[str, Any], value: object) -> bool:
    """Judge a value by a schema, the type first: the other keywords suppose it."""
    keywords = sorted(schema, key=lambda keyword: keyword != "type")
    return all(_KEYWORDS[keyword](schema, value) for keyword in keywords)


def right(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Make values that a schema allows."""
    if "const" in schema:
        return st.sampled_from([schema["const"], float(schema["const"])])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "string":
            return st.text(max_size=schema.get("maxLength"))
        case "boolean":
            return st.booleans()
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.integers(schema["minimum"], 2**53) | st.floats(schema["minimum"], allow_infinity=False)
        case "array":
            return st.lists(right(schema["items"]), min_size=schema.get("minItems", 0), max_size=4)
    if "properties" not in schema:
        return st.dictionaries(st.text(), right(schema["additionalProperties"]), max_size=4)
    fields = {name: right(field) for name, field in schema["properties"].items()}
    needed = {name: fields.pop(name) for name in schema["required"]}
    return st.fixed_dictionaries(needed, optional=fields)


def wrong(example: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Change a right example in one place at a time: most of what comes out is wrong, some is still right."""
    for name in schema["properties"]:
        yield {field: value for field, value in example.items() if field != name}
        yield from ({**example, name: odd} for odd in ODD)
        yield {**{field: value for field, value in example.items() if field != name}, name.upper(): 1}
    yield {**example, "more": 1}
    yield {**example, "": None}
