"""What may leave the machine of an error's text: one line without credentials, without the person's name.

Three kinds of rules: what the host says is secret is found in every spelling (URL-encoded, JSON-escaped, base64);
what the person typed is found where it stands as a word; what nobody knows of is found by its shape. Where a rule is
in doubt, the text goes. No rule can find a secret that stands in plain prose and that nobody named or typed.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from itertools import chain

from spool.exception.redaction_rules import CUT, EDGE, HOME, MARKS, PEOPLE, RULES, USER, Rule

__all__ = ["Redactor", "error_class", "redact", "whereabouts"]

# What is read of a text, and what is read but never shown when the text is longer: whatever a rule would
# recognise is shorter than _MARGIN, so a cut leaves no half of it behind.
_READ = 20_000
_MARGIN = 4_000
# A longer secret (a key file) is looked for in pieces of this length, each in every spelling.
_PIECE = 200
# Two characters are in every text; three are looked for as they are; more in every spelling.
_LEAST_LITERAL = 3
_LEAST_SPELLED = 4
# Each typed word that a text may hold costs some 2 ms to look for.
_MOST_TYPED = 50
# What every spelling of a word holds as it is.
_RUNS = re.compile(r"[a-z0-9]+")

_WRITE_OUT = str.maketrans(MARKS)
_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,32}[@-~]")
_GAPS = r"[\s\x00-\x1f\x7f-\x9f\ue000-\ue003]+"
_GAP = re.compile(_GAPS)


@cache
def _compiled(rule: str) -> re.Pattern[str]:
    return re.compile(rule, re.IGNORECASE | re.DOTALL)


class Redactor:
    """The rules with what is known: a host's secrets, a person's home, name and words. Made once, used often."""

    def __init__(
        self,
        secrets: Iterable[object] = (),
        home: str | None = None,
        user: str | None = None,
        typed: Iterable[str] = (),
    ) -> None:
        words = sorted(typed, key=len, reverse=True)
        self._typed = [word for word in words if len(word) <= _PIECE]
        known = chain(_texts(secrets), (word for word in words if len(word) > _PIECE))
        pieces = (piece for secret in known for piece in _pieces(secret))
        self._secrets = [re.compile("|".join(ways)) for ways in map(_spellings, pieces) if ways]
        place = (home or "").rstrip("/\\")
        # A home directly below the root may also be the end of another path.
        start = r"(?<![\w.~-])" if len(re.findall(r"[\\/]+", place)) == 1 else ""
        homes = [("", rf"{start}{_spelled(place)}(?![^\W_])", HOME)] if re.search(r"[\\/].", place) else []
        owner = re.search(r"[\\/](?:home|users)[\\/]+([^\\/]+)$", place, re.IGNORECASE)
        names = {name for name in (user or "", owner[1] if owner else "") if len(name) > 1}
        people = [("", rf"{EDGE}{_spelled(name)}(?![^\W_])", USER) for name in sorted(names, key=len, reverse=True)]
        self._rules: list[Rule] = [*RULES, *homes, *PEOPLE, *people]

    def __call__(self, text: str, limit: int = 1000) -> str:
        """Give the text as one line of at most `limit` characters, without what the rules find."""
        whole = str.__len__(text) <= _READ + _MARGIN
        line = _COLOUR.sub("", str.__getitem__(text, slice(_READ + _MARGIN)))
        line = self._without_secrets(_GAP.sub(" ", line))
        held = line.lower()
        for hints, rule, left in self._rules:
            if any(hint in held for hint in hints.split("|")):
                line = _compiled(rule).sub(left, line)
        line = self._without_typed(line)
        line = (line if whole else line[:-_MARGIN]).strip().translate(_WRITE_OUT)
        return line if len(line) <= limit else line[: max(0, limit - 3)] + "..."[: max(0, limit)]

    def _without_secrets(self, line: str) -> str:
        """Cut the secrets out, overlapping ones as one."""
        kept, position = [], 0
        for start, end in sorted(found.span() for secret in self._secrets for found in secret.finditer(line)):
            if start >= position:
                kept += [line[position:start], CUT]
            position = max(position, end)
        return "".join([*kept, line[position:]])

    def _without_typed(self, line: str) -> str:
        """Cut out what was typed; last, because the names that other rules go by may have been typed too."""
        held = line.lower()
        candidates = [word for word in self._typed if all(run in held for run in _RUNS.findall(word.lower()))]
        if len(candidates) > _MOST_TYPED:
            return CUT  # nothing but the command line again
        for word in candidates:
            if all(run in line.lower() for run in _RUNS.findall(word.lower())):  # not cut out with a longer one
                line = re.sub(_as_word(word), CUT, line, flags=re.IGNORECASE)
        return line


def redact(  # noqa: PLR0913 - what is known of a person, each by name
    text: str,
    *,
    secrets: Iterable[str] = (),
    home: str | None = None,
    user: str | None = None,
    typed: Iterable[str] = (),
    limit: int = 1000,
) -> str:
    """Give an error's text as one line of at most `limit` characters without credentials and personal names.

    `typed` are words of the command line: they are cut out where they stand as words, in any spelling but base64.

    Never raises and takes a bounded time: of a longer text the first 20,000 characters are read. What can't be
    judged is not shown at all.
    """
    try:
        return Redactor(secrets, home, user, typed)(text, limit)
    except Exception:  # noqa: BLE001 - the host comes first; what was not judged is not shown
        return "<redacted>"[: max(0, limit)]


def whereabouts(env: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Give the home and the name of the person at this machine, as the environment tells them. Root is nobody."""
    home = env.get("HOME") or env.get("USERPROFILE")
    names = (env.get(name) for name in ("SUDO_USER", "USER", "LOGNAME", "USERNAME"))
    return home, next((name for name in names if name and name != "root"), None)


def error_class(error: BaseException | type[BaseException]) -> str | None:
    """Give the name of an error's class if it looks like one; a name made at run time could carry data."""
    name = vars(type)["__name__"].__get__(type(error) if isinstance(error, BaseException) else error)
    return name if re.fullmatch(r"(?=.{1,80}$)_*[A-Z][A-Za-z0-9_]*", name) else None


# -- spellings of what is known -------------------------------------------------------------------------

_SLASHES = "\\/"
# Every repetition is bounded: a text of nothing but backslashes must not cost more than another.
_SLASH = r"(?>[\\/]|%(?:25){0,3}(?:5c|2f)){1,16}"
_SPACE = r"(?>\s|\+|\\{1,8}+(?:[abfnrtv0]|x[01][0-9a-f]|(?-i:u)00[01][0-9a-f])|%(?:25){0,3}(?:20|[01][0-9a-f]|7f))"


def _texts(secrets: Iterable[object]) -> Iterator[str]:
    # One text is one secret, not many of one character.
    for secret in (secrets,) if isinstance(secrets, str | bytes) else secrets:
        yield secret.decode("utf-8", "replace") if isinstance(secret, bytes) else str(secret or "")


def _pieces(secret: str) -> list[str]:
    return [secret[at : at + _PIECE] for at in range(0, len(secret) - _PIECE, _PIECE)] + [secret[-_PIECE:]]


def _spellings(secret: str) -> list[str]:
    text = _GAP.sub(" ", secret).strip()
    if len(text) < _LEAST_SPELLED:
        return [re.escape(text)] if len(text) >= _LEAST_LITERAL else []
    return [f"(?i:{re.escape(text)}|{_spelled(secret)})", *_encoded(secret)]


def _encoded(secret: str) -> Iterator[str]:
    """Give what every base64 text holds that holds the secret, wherever it starts in it."""
    data = secret.encode("utf-8", "surrogatepass")
    for before in range(3):
        code = b2a_base64(bytes(before) + data, newline=False).decode("ascii")
        core = code[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]
        for alphabet in (core, core.translate(str.maketrans("+/", "-_"))):
            yield rf"[\w+/-]?{re.escape(alphabet)}[\w+/-]?={{0,2}}"


def _spelled(text: str) -> str:
    """Give a pattern for the text in which every sign may be escaped, one by one and more than once."""
    pattern, slash = "", ""
    runs = re.findall(rf"{_GAPS}|[\\/]+|.", re.sub(rf"^{_GAPS}|{_GAPS}$", "", text))
    for run, following in zip(runs, [*runs[1:], " "], strict=True):
        if run[0] in _SLASHES:
            slash = _SLASH
            continue
        if _GAP.match(run):
            odd = [_escaped(sign) for sign in sorted(set(run)) if not sign.isascii()]
            # A backslash after a gap may look like the escape of one: then the gap takes no more than it must.
            part = f"(?>{'|'.join([_SPACE, *odd])}){'{1,16}?' if following[0] in _SLASHES else '{1,256}+'}"
        else:
            part = run if run.isascii() and run.isalnum() else _escaped(run)
        # A slash and the escape of what follows it are told apart here and nowhere else.
        pattern += f"(?>{slash}{part})" if slash else part
        slash = ""
    return pattern + slash


def _as_word(word: str) -> str:
    """Give a pattern for a typed word, in every spelling, where it stands alone."""
    start, end = (EDGE if word[0].isalnum() else ""), (r"(?![^\W_])" if word[-1].isalnum() else "")
    return f"{start}(?:{re.escape(_GAP.sub(' ', word))}|{_spelled(word)}){end}"


def _escaped(sign: str) -> str:
    data, code = sign.encode("utf-8", "surrogatepass"), ord(sign)
    wide = code > 0xFFFF  # noqa: PLR2004 - beyond it JSON writes two units of UTF-16
    units = (0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF)) if wide else (code,)
    ways = (
        "".join(f"%(?:25){{0,3}}{byte:02x}" for byte in data),
        "".join(rf"\\{{1,8}}+u{unit:04x}" for unit in units),
        "".join(rf"\\{{1,8}}+x{byte:02x}" for byte in data),
        rf"\\{{1,8}}+(?:x{code:02x}|U{code:08x})",
        rf"\\{{0,8}}+{re.escape(sign)}",
    )
    return f"(?>{'|'.join(ways)})"
