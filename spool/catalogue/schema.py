"""JSON Schema 2020-12: derived from the fields of a Struct, and what it says of a value.

Only what the events of a catalogue need. The verdict is that of ajv and zod on the JSON that is written:
3.0 is a whole number, True is no number, the length of a text is counted in code points.

msgspec writes JSON Schema too, but sorts the choices of a Literal, gives them no type and a single one no `const`,
takes dict[int, str] for an object of texts, refers to nested objects by name and tells no field's name when it
refuses: to mend all that takes more lines than to read the classes here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin

from msgspec import Meta, Struct, UnsetType, structs

__all__ = ["DIALECT", "Schema", "complaint", "plain", "readable", "struct_schema", "suggestion"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]

_SCALARS = {str: "string", bool: "boolean", int: "integer", float: "number"}
_RANGE = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
_BOUNDS = {
    "string": {"min_length": "minLength", "max_length": "maxLength"},
    "array": {"min_length": "minItems", "max_length": "maxItems"},
    "integer": _RANGE,
    "number": _RANGE,
}
_LIMITS = (*_RANGE, "min_length", "max_length", "multiple_of", "pattern", "tz")


# -- from types to JSON Schema ------------------------------------------------------------------------------


def struct_schema(struct: type[Struct], where: str) -> Schema:
    """Describe a Struct; its docstring becomes the description. TypeError names a field that can't be said."""
    fields = structs.fields(struct)
    doc = struct.__dict__.get("__doc__")
    return {
        **({"description": " ".join(doc.split())} if doc else {}),
        "type": "object",
        "properties": {one.encode_name: _hint_schema(one.type, f"{where}.{one.encode_name}") for one in fields},
        "required": [one.encode_name for one in fields if one.required],
        "additionalProperties": False,
    }


def _hint_schema(hint: Any, where: str) -> Schema:
    origin, arguments = get_origin(hint), get_args(hint)
    if isinstance(hint, type) and hint in _SCALARS:
        return {"type": _SCALARS[hint]}
    if isinstance(hint, type) and issubclass(hint, Struct):
        return struct_schema(hint, where)
    if isinstance(hint, type) and issubclass(hint, Enum) and issubclass(hint, str):
        return {"type": "string", "enum": [member.value for member in hint]}
    if origin is Annotated:
        return _bounded(_hint_schema(arguments[0], where), arguments[1:], where)
    if origin is Literal and {type(choice) for choice in arguments} in ({str}, {int}):
        kind = {"type": "string" if isinstance(arguments[0], str) else "number"}
        return kind | ({"const": arguments[0]} if len(arguments) == 1 else {"enum": list(arguments)})
    if origin is list:
        return {"type": "array", "items": _hint_schema(arguments[0], where)}
    if origin is dict and arguments[0] is str:
        values = _hint_schema(arguments[1], where)
        return {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": values}
    rest = [member for member in arguments if member is not UnsetType]
    if len(rest) == 1 and UnsetType in arguments:
        return _hint_schema(rest[0], where)
    raise TypeError(f"{where}: {hint} is no type of a field; one that may be left out is `str | UnsetType = UNSET`")


def _bounded(schema: Schema, metas: Iterable[Any], where: str) -> Schema:
    keywords = _BOUNDS.get(schema["type"], {})
    for meta in metas:
        if not isinstance(meta, Meta):
            continue  # somebody else's annotation
        if meta.description:
            schema["description"] = meta.description
        for limit in _LIMITS:
            bound = getattr(meta, limit)
            if bound is None:
                continue
            if limit not in keywords:
                raise TypeError(f"{where}: Meta({limit}=...) can't bound a field of JSON's type {schema['type']}")
            schema[keywords[limit]] = bound
    return schema


def plain(value: Any) -> Any:
    """Give what a Struct, and whatever it holds, is in JSON: fields that are UNSET are left out."""
    if isinstance(value, Struct):
        pairs = zip(value.__struct_encode_fields__, value.__struct_fields__, strict=True)
        items = ((name, getattr(value, attribute)) for name, attribute in pairs)
        return {name: plain(item) for name, item in items if not isinstance(item, UnsetType)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


# -- the verdict --------------------------------------------------------------------------------------------


def complaint(schema: Schema, value: object) -> str:
    """Say what keeps a value from its schema: `.path: expected this, got that`; empty where nothing does.

    The first mistake only, on one line, without the text of any value: it may be a secret.
    """
    return _JUDGES[schema["type"]](schema, value)


def _object(schema: Schema, value: object) -> str:
    if not isinstance(value, Mapping):
        return _mismatch(schema, value)
    fields = schema.get("properties", {})
    for name in value:
        found = "" if name in fields else _other(schema, fields, name, value[name])
        if found:
            return found
    for name, field in fields.items():
        if name in value:
            found = complaint(field, value[name])
            if found:
                return f".{name}{found}"
        elif name in schema["required"]:
            return f".{name}: missing; expected {_wanted(field)}"
    return ""


def _other(schema: Schema, fields: Schema, name: object, value: object) -> str:
    others = schema["additionalProperties"]
    if not isinstance(name, str):
        return f": expected names that are text, got {_got(name)}"
    if others is False:
        return f".{readable(name)}: unknown field; {suggestion(name, fields)}"
    found = "" if others is True else complaint(others, value)
    return f".{readable(name)}{found}" if found else ""


def _array(schema: Schema, value: object) -> str:
    if not isinstance(value, list | tuple):
        return _mismatch(schema, value)
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        return _mismatch(schema, value)
    for index, item in enumerate(value):
        found = complaint(schema["items"], item)
        if found:
            return f"[{index}]{found}"
    return ""


def _string(schema: Schema, value: object) -> str:
    if isinstance(value, str) and _chosen(schema, value):
        if "maxLength" not in schema and "minLength" not in schema:
            return ""
        if schema.get("minLength", 0) <= _length(value) <= schema.get("maxLength", math.inf):
            return ""
    return _mismatch(schema, value)


def _boolean(schema: Schema, value: object) -> str:
    return "" if isinstance(value, bool) else _mismatch(schema, value)


def _number(schema: Schema, value: object) -> str:
    number = _double(value)
    if number is None or (schema["type"] == "integer" and not number.is_integer()):
        return _mismatch(schema, value)
    fits = (
        _chosen(schema, number)
        and schema.get("minimum", -math.inf) <= number <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < number < schema.get("exclusiveMaximum", math.inf)
    )
    return "" if fits else _mismatch(schema, value)


_JUDGES: dict[str, Callable[[Schema, object], str]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "boolean": _boolean,
    "integer": _number,
    "number": _number,
}


def _chosen(schema: Schema, value: object) -> bool:
    if "enum" in schema:
        return value in schema["enum"]
    return "const" not in schema or value == schema["const"]


def _double(value: object) -> float | None:
    """Read a number as JavaScript does; None for what is none, or larger than it can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _length(text: str) -> int:
    """Count the code points that arrive: two halves of a surrogate pair are written as the one that they make."""
    return len(text) if text.isascii() else len(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


# -- the words ----------------------------------------------------------------------------------------------

# A name that is longer is no name of a field, but may be all that somebody's program holds.
_READABLE = 80
_NOUNS = {
    "object": "an object",
    "array": "an array",
    "string": "text",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
}
_WORDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "length at least {}",
    "maxLength": "length at most {}",
    "minItems": "length at least {}",
    "maxItems": "length at most {}",
}


def _mismatch(schema: Schema, value: object) -> str:
    return f": expected {_wanted(schema)}, got {_got(value)}"


def _wanted(schema: Schema) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    bounds = " and ".join(words.format(schema[keyword]) for keyword, words in _WORDS.items() if keyword in schema)
    return f"{_NOUNS[schema['type']]}, {bounds}" if bounds else _NOUNS[schema["type"]]


def _got(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"text of length {_length(value)}"
    if isinstance(value, int | float):
        number = _double(value)
        if number is not None:
            return f"{number:.17g}"
        return "one beyond a double" if isinstance(value, int) else f"{float(value)}"
    if isinstance(value, list | tuple):
        return f"an array of length {len(value)}"
    return "an object" if isinstance(value, Mapping) else readable(type(value).__name__)


def readable(name: object) -> str:
    """Give a name that somebody made up as it is, or in quotes and cut where one could not read it."""
    plainly = isinstance(name, str) and name.isascii() and name.isidentifier() and len(name) <= _READABLE
    return str(name) if plainly else ascii(name)[:_READABLE]


def suggestion(name: object, known: Iterable[str]) -> str:
    """Say which of the known names was meant, or all of them where none is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - only when there is a mistake

    names = list(known)
    near = get_close_matches(str(name)[:_READABLE], names, 1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names) or 'none'}"
