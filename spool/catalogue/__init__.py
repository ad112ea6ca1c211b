"""A catalogue of typed events, and the strict check of what a host captures against it.

    class ReportWritten(Event):
        format: Literal["pdf", "html"]
        pages: Annotated[int, Meta(ge=0)]

    CATALOGUE = Catalogue(ReportWritten)  # the event `report_written`

The check judges by the JSON Schema that is derived from the classes (spool/catalogue/schema.py). Only a host with a
catalogue imports this module: it loads msgspec.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, dataclass_transform

from msgspec import UNSET, Meta, Struct, StructMeta, UnsetType, field

from spool.catalogue.schema import DIALECT, Schema, complaint, plain, readable, struct_schema, suggestion
from spool.errors import InvalidEventError

__all__ = ["COMMON", "OWN_EVENTS", "UNSET", "Catalogue", "Common", "Event", "Meta", "UnsetType", "name_of"]

# Captured by the spool itself: checked where the catalogue has them, else let through.
OWN_EVENTS = ("install_first_run", "command", "spool_loss", "$exception")
_UNJUDGED: Schema = {"type": "object", "additionalProperties": True}
_TAKEN = "the spool adds this field itself; leave it out"


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class _EventMeta(StructMeta):
    """Makes the fields of every event keywords: an optional one may stand before a required one."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any) -> _EventMeta:
        return super().__new__(mcs, name, bases, namespace, **{"kw_only": True, **options})


# Said again for type checkers, because msgspec's own declaration would ask each event for `frozen=True`.
@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
class Event(
    Struct,
    metaclass=_EventMeta,
    kw_only=True,
    frozen=True,
    forbid_unknown_fields=True,
    tag=_snake_case,
    tag_field="$event",
):
    """The base of a host's events: the class name in snake_case is the event's name, `tag="..."` another one.

    A field is `str`, `bool`, `int`, `float`, a Literal of texts or of numbers, a text Enum, a `list` or
    `dict[str, ...]` of these or another Struct, bounded by `Annotated[int, Meta(ge=0)]`. One that may be left
    out is `str | UnsetType = UNSET`. `rename="camel"` writes `table_count` as `tableCount`.
    """


class Common(Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields that the spool adds to every event; spool/event/envelope.py gives their values."""

    cli_version: Annotated[str, Meta(description="Version of the host program.")]
    node_version: Annotated[str, Meta(description="Version of the interpreter; Python's begins with python-.")]
    os_platform: Annotated[str, Meta(description="Operating system, as in linux, darwin or win32.")]
    os_release: Annotated[str, Meta(description="Release of the operating system's kernel.")]
    arch: Annotated[str, Meta(description="Processor architecture in Node's words, as in x64 or arm64.")]
    runtime: Annotated[Literal["node", "daemon-py"], Meta(description="Which side captured: Node or Python.")]
    is_ci: Annotated[bool, Meta(description="Whether the program ran in continuous integration.")]


COMMON: tuple[str, ...] = Common.__struct_encode_fields__


def name_of(event: Event | type[Event]) -> str:
    """Give the name under which an event is captured."""
    return str(event.__struct_config__.tag)


class Catalogue:
    """The events that a host may capture. It is complete when made: nothing can be added later.

    A class is read at its first use, so that a program pays only for the events that it captures. `name` is for a
    catalogue that comes with this package: the flusher finds it by that. Raises ValueError for two events of one name,
    and for a name that the spool uses itself.
    """

    def __init__(self, *events: type[Event], name: str | None = None) -> None:
        self.name = name
        self._classes: dict[str, type[Event]] = {}
        self._own: dict[str, Schema] = {}
        for event in events:
            name = name_of(event)
            if name in self._classes or name in ("spool_loss", "$exception"):
                raise ValueError(f"{name}: there is such an event already, here or among the spool's own")
            for field_name in event.__struct_encode_fields__:
                if field_name in COMMON or field_name.startswith(("$", "spool_")):
                    raise ValueError(f"{name}.{field_name}: the spool uses this name itself")
            self._classes[name] = event

    def names(self) -> tuple[str, ...]:
        """Give the names of the events, in the order in which they were given."""
        return tuple(self._classes)

    def check(self, event: str, properties: Mapping[str, Any] | Event | None = None) -> dict[str, Any]:
        """Give back the event's own fields, ready to encode, if they are as the catalogue says.

        Raises InvalidEventError for the first mistake: one line with event, field and what was expected, and
        never with the text of a value. An instance is judged as well, since its constructor doesn't.
        """
        own = self._find(event)
        if isinstance(properties, Event) and name_of(properties) != event:
            raise InvalidEventError(f"{event}: expected its own fields, got those of {name_of(properties)}")
        given = plain(properties) if isinstance(properties, Event) else {} if properties is None else properties
        found = complaint(own, given)
        if found:
            taken = next((name for name in COMMON if isinstance(given, Mapping) and name in given), None)
            raise InvalidEventError(f"{event}.{taken}: {_TAKEN}" if taken else event + found)
        return dict(given)

    def check_complete(self, event: str, properties: Mapping[str, Any]) -> None:
        """Judge an event that somebody else wrote, its common fields with it; InvalidEventError as `check`.

        The verdict is that of any validator with `json_schema()`. What the spool's envelope adds (`$lib` and
        the like) is not in the schema: the caller leaves it out.
        """
        found = complaint(self._complete(event), properties)
        if found:
            raise InvalidEventError(event + found)

    def json_schema(self) -> dict[str, Any]:
        """Describe the events in JSON Schema 2020-12, in the shape of ktx's events.schema.json."""
        from copy import deepcopy  # noqa: PLC0415 - for the script that writes the schema, not for a capture

        return deepcopy(
            {
                "$schema": DIALECT,
                "title": "Telemetry events: the properties of each, without the envelope",
                "type": "object",
                "additionalProperties": False,
                "x-ktx-common-fields": list(COMMON),
                "x-ktx-catalog": [
                    {"name": name, "fields": list(self._find(name)["properties"])} for name in self._classes
                ],
                "$defs": {name: {"$schema": DIALECT, **self._complete(name)} for name in self._classes},
            }
        )

    def _find(self, event: str) -> Schema:
        """Give the schema of an event's own fields, read from its class at its first use."""
        known = self._own.get(event) if isinstance(event, str) else None
        if known is not None:
            return known
        declared = self._classes.get(event) if isinstance(event, str) else None
        if declared is not None:
            try:
                return self._own.setdefault(event, struct_schema(declared, event))
            except (NameError, TypeError) as error:
                raise InvalidEventError(f"{event}: its class can't be read: {error}") from error
        if event in OWN_EVENTS:
            return _UNJUDGED
        raise InvalidEventError(f"{readable(event)}: unknown event; {suggestion(event, self._classes)}")

    def _complete(self, event: str) -> Schema:
        """Give the schema of an event with the common fields before its own."""
        own, common = self._find(event), _common_schema()
        if own is _UNJUDGED:
            return own
        properties = {**common["properties"], **own["properties"]}
        return {**own, "properties": properties, "required": [*common["required"], *own["required"]]}


@cache
def _common_schema() -> Schema:
    return struct_schema(Common, "common")
