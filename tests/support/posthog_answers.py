"""What the local PostHog can answer, and how a request can go wrong: the vocabulary of a test's script."""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

Json = dict[str, Any]


class Ending(enum.Enum):
    """What the client gets in the end."""

    WHOLE = enum.auto()  # the answer
    HALF = enum.auto()  # half of the body that was promised, then the end of the connection
    SILENCE = enum.auto()  # the end of the connection
    RESET = enum.auto()  # ECONNRESET


@dataclass(frozen=True)
class Answer:
    """What happens to one request: wait `before_s`, serve it if `serves`, wait `after_s`, then `ending`."""

    code: int = 0
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)  # these replace Date, Server, Content-Length
    serves: bool = False  # store the batch and answer as PostHog does; code, body and headers don't count
    before_s: float = 0.0
    after_s: float = 0.0
    ending: Ending = Ending.WHOLE


def status(code: int, body: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """Answer with this status, plain text and headers; nothing is stored."""
    return Answer(code, body.encode(), {"Content-Type": "text/plain", **(headers or {})})


def redirect(location: str, code: int = 302) -> Answer:
    """Send the client elsewhere; nothing is stored."""
    return status(code, headers={"Location": location})


def html(code: int = 200) -> Answer:
    """Answer with the login page of a captive portal; nothing is stored."""
    return status(code, "<!doctype html><title>Log in to Wi-Fi</title>", {"Content-Type": "text/html"})


def json_body(code: int, value: object) -> Answer:
    """Answer with this JSON; nothing is stored."""
    return status(code, json.dumps(value), {"Content-Type": "application/json"})


def hang(seconds: float) -> Answer:
    """Say nothing, then close, after `seconds` or when the server stops; nothing is stored."""
    return Answer(after_s=seconds, ending=Ending.SILENCE)


def reset() -> Answer:
    """Read the request, then reset the connection; nothing is stored."""
    return Answer(ending=Ending.RESET)


def half() -> Answer:
    """Promise PostHog's answer and break off in the middle of its body; nothing is stored."""
    return replace(json_body(200, {"status": "Ok"}), ending=Ending.HALF)


def accept_then_reset() -> Answer:
    """Store the batch, then reset the connection: the answer is lost."""
    return Answer(serves=True, ending=Ending.RESET)


def accept_then_hang(seconds: float) -> Answer:
    """Store the batch, then say nothing and close, after `seconds` or when the server stops."""
    return Answer(serves=True, after_s=seconds, ending=Ending.SILENCE)


def slow(seconds: float) -> Answer:
    """Wait, then store and answer as ever; a server that stops meanwhile stores nothing."""
    return Answer(serves=True, before_s=seconds)


NORMAL = Answer(serves=True)


def answer_from(spec: Any) -> Answer:
    """Read an answer as `/_behave` takes it; ValueError or TypeError if it is none."""
    match spec:
        case {"status": int(code)}:
            headers = {name: str(value) for name, value in dict(spec.get("headers", {})).items()}
            return status(code, str(spec.get("body", "")), headers)
        case {"hang": int() | float() as seconds}:
            return hang(seconds)
        case {"reset": True}:
            return reset()
        case {"accept_then_reset": True}:
            return accept_then_reset()
    raise ValueError(f"no answer: {spec!r}")


def events_page(rows: Sequence[Json]) -> Answer:
    """Show events, the newest first; nothing that they hold is taken for markup."""
    names = ("received_at", "event", "distinct_id", "uuid", "copies", "properties")
    style = "body{font:14px sans-serif;margin:2em}td,th{padding:.3em 1em;text-align:left}"
    lines = [f"<title>local PostHog</title><style>{style}</style><h1>local PostHog: {len(rows)} events</h1>"]
    lines += ["<table>", "<tr>" + "".join(f"<th>{name}" for name in names)]
    for row in reversed(rows):
        cells = (row.get(name, "") for name in names)
        texts = (cell if isinstance(cell, str) else json.dumps(cell) for cell in cells)
        lines.append("<tr>" + "".join(f"<td>{escape(text)}" for text in texts))
    page = "\n".join(["<!doctype html><meta charset=utf-8>", *lines, "</table>"])
    return Answer(200, page.encode(errors="replace"), {"Content-Type": "text/html; charset=utf-8"})
