"""What may leave the machine of an error's text: one line without credentials, addresses, and the person's name.

Three kinds of rules: what the host says is secret is found in every spelling (URL-encoded, JSON-escaped, base64);
what the person typed is found where it stands as a word; what nobody knows of is found by its shape. Where a rule is
in doubt, the text goes. No rule can find a secret that stands in plain prose and that nobody named or typed.
"""

from __future__ import annotations

import os
import re
from binascii import b2a_base64
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import NamedTuple

__all__ = ["Redactor", "Whereabouts", "error_class", "program_words", "redact", "typed_words", "whereabouts"]

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
# Shorter words of a command line are in too many texts, and say little.
_LEAST_TYPED = 4

# Each mark is one character, so that no rule makes a text longer; they are written out at the end.
_MARKS = {
    "\ue000": "<redacted>",
    "\ue001": "<email>",
    "\ue002": "<user>",
    "\ue003": "~",
    "\ue004": "<ip>",
    "\ue005": "<host>",
}
_CUT, _EMAIL, _USER, _HOME, _IP, _HOST = _MARKS

# What a text must hold, in lower case, for the rule to be worth a look; the rule; what it leaves.
_Rule = tuple[str, str, str]

_WRITE_OUT = str.maketrans(_MARKS)
_COLOUR = re.compile(r"\x1b\[[0-9;?]{0,32}[@-~]")
_GAPS = r"[\s\x00-\x1f\x7f-\x9f\ue000-\ue005]+"
_GAP = re.compile(_GAPS)


@cache
def _compiled(rule: str) -> re.Pattern[str]:
    return re.compile(rule, re.IGNORECASE | re.DOTALL)


class Redactor:
    """The rules with what is known: a host's secrets, a person's home, name and words. Made once, used often.

    `of_code` is for lines of code, which are the same on every machine: addresses and variables in them stay.
    """

    def __init__(  # noqa: PLR0913 - what is known of a person, each by name
        self,
        secrets: Iterable[object] = (),
        home: str | None = None,
        user: str | None = None,
        machine: str | None = None,
        typed: Iterable[str] = (),
        *,
        of_code: bool = False,
    ) -> None:
        words = sorted(typed, key=len, reverse=True)
        self._typed = [word for word in words if len(word) <= _PIECE]
        known = chain(_texts(secrets), (word for word in words if len(word) > _PIECE))
        pieces = (piece for secret in known for piece in _pieces(secret))
        self._secrets = [re.compile("|".join(ways)) for ways in map(_spellings, pieces) if ways]
        place = (home or "").rstrip("/\\")
        # A home directly below the root may also be the end of another path.
        start = r"(?<![\w.~-])" if len(re.findall(r"[\\/]+", place)) == 1 else ""
        homes = [("", rf"{start}{_spelled(place)}(?![^\W_])", _HOME)] if re.search(r"[\\/].", place) else []
        owner = re.search(r"[\\/](?:home|users)[\\/]+([^\\/]+)$", place, re.IGNORECASE)
        names = {name for name in (user or "", owner[1] if owner else "") if len(name) > 1}
        known_as = [*((name, _USER) for name in names), *((name, _HOST) for name in _names_of(machine))]
        known_as.sort(key=lambda one: len(one[0]), reverse=True)
        people = [("", rf"{_EDGE}{_spelled(name)}(?![^\W_])", mark) for name, mark in known_as]
        self._rules: list[_Rule] = [*_RULES, *(() if of_code else _MACHINE), *homes, *_PEOPLE, *people]

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
                kept += [line[position:start], _CUT]
            position = max(position, end)
        return "".join([*kept, line[position:]])

    def _without_typed(self, line: str) -> str:
        """Cut out what was typed; last, because the names that other rules go by may have been typed too."""
        held = line.lower()
        candidates = [word for word in self._typed if all(run in held for run in _RUNS.findall(word.lower()))]
        if len(candidates) > _MOST_TYPED:
            return _CUT  # nothing but the command line again
        for word in candidates:
            if all(run in line.lower() for run in _RUNS.findall(word.lower())):  # not cut out with a longer one
                line = re.sub(_as_word(word), _CUT, line, flags=re.IGNORECASE)
        return line


def redact(  # noqa: PLR0913 - what is known of a person, each by name
    text: str,
    *,
    secrets: Iterable[str] = (),
    home: str | None = None,
    user: str | None = None,
    machine: str | None = None,
    typed: Iterable[str] = (),
    limit: int = 1000,
) -> str:
    """Give an error's text as one line of at most `limit` characters without credentials, addresses and personal names.

    `typed` are words of the command line: they are cut out where they stand as words, in any spelling but base64.

    Never raises and takes a bounded time: of a longer text the first 20,000 characters are read. What can't be
    judged is not shown at all.
    """
    try:
        return Redactor(secrets, home, user, machine, typed)(text, limit)
    except Exception:  # noqa: BLE001 - the host comes first; what was not judged is not shown
        return "<redacted>"[: max(0, limit)]


class Whereabouts(NamedTuple):
    """Where a text comes from: the home and the name of the person, and the name of the machine."""

    home: str | None
    user: str | None
    machine: str | None


def whereabouts(env: Mapping[str, str]) -> Whereabouts:
    """Give the person at this machine, as the environment tells of them, and its name. Root is nobody."""
    home = env.get("HOME") or env.get("USERPROFILE")
    names = (env.get(name) for name in ("SUDO_USER", "USER", "LOGNAME", "USERNAME"))
    user = next((name for name in names if name and name != "root"), None)
    return Whereabouts(home, user, os.uname().nodename if hasattr(os, "uname") else env.get("COMPUTERNAME"))


def _names_of(machine: str | None) -> set[str]:
    """Give a machine's name, whole and without its domain; one that many have, or that is in any text, is none."""
    names = {machine or "", (machine or "").partition(".")[0]}
    return {name for name in names if len(name) >= _LEAST_TYPED and not name.lower().startswith("localhost")}


def error_class(error: BaseException | type[BaseException]) -> str | None:
    """Give the name of an error's class if it looks like one; a name made at run time could carry data."""
    name = vars(type)["__name__"].__get__(type(error) if isinstance(error, BaseException) else error)
    return name if re.fullmatch(r"(?=.{1,80}$)_*[A-Z][A-Za-z0-9_]*", name) else None


# -- what was typed ---------------------------------------------------------------------------------------

# What an option's name looks like; with a digit or a sign in it, it may as well be a value.
_OPTION = re.compile(r"-{1,2}[A-Za-z]+(?:[-_][A-Za-z]+)*")
# Where a path, an address or a sentence falls into parts, each of which may come back alone.
_BETWEEN = re.compile(r"[\s/\\=,:;@?&#'\"<>()\[\]{}|]+")


# Options of the interpreter: those that may be written together, and the last one, with its value or before it.
_INTERPRETERS = re.compile(r"-(?:[bBdEhiIOPqRsSuvVx?]*([cmXW])(.*)|.*)", re.DOTALL)


def program_words(started_by: Sequence[str]) -> list[str]:
    """Give the words for the program, of a command line that begins with the interpreter and its options.

    None of code that was given with `-c`: the words behind it are for that code, which is no program of anybody's.
    """
    words = iter(started_by[1:])
    for word in words:
        option = _INTERPRETERS.fullmatch(word)
        if word == "-" or option is None:  # the script
            return list(words)
        kind, value = option[1], option[2]
        if kind == "c":
            return []
        if (kind and not value) or word == "--check-hash-based-pycs":
            next(words, None)
        if kind == "m":
            return list(words)
    return []


def typed_words(arguments: Iterable[str], declared: Container[str] = ()) -> frozenset[str]:
    """Give the values among the arguments of a command line, whole and in parts, of 4 characters and more.

    `declared` are names that the program itself gave: those of its commands. Names of options are no values.
    """
    found: set[str] = set()
    for value in _values(arguments):
        found |= {part.strip(".-_ ") for part in _BETWEEN.split(value)} | {value.strip()}
    return frozenset(word for word in found if len(word) >= _LEAST_TYPED and word not in declared)


def _values(arguments: Iterable[str]) -> Iterator[str]:
    for word in arguments:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield word
        elif equals and _OPTION.fullmatch(name):
            yield value
        elif not _OPTION.fullmatch(word):
            yield from (word, word.lstrip("-"), word[2:])  # the last for -pVALUE
        elif not word.startswith("--"):
            yield word[2:]


# -- spellings of what is known ---------------------------------------------------------------------------

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
    start, end = (_EDGE if word[0].isalnum() else ""), (r"(?![^\W_])" if word[-1].isalnum() else "")
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


# -- what nobody knows of, by its shape -------------------------------------------------------------------

# Each rule takes a bounded time on any text: what repeats is possessive, bounded, or tried from one place only.
# The start of a word, also after an escape that ends in a letter or a digit (\n, %20).
_ESCAPE = r"(?<=\\[nrt])|(?<=%[0-9a-f][0-9a-f])"
_EDGE = rf"(?:(?<![^\W_])|{_ESCAPE})"
_KEY = (
    r"(?:pass(?:word|wd|phrase|code)s?|(?<![a-z])pass|(?-i:(?<=[a-z])Pass)|pwd|secrets?|(?<!unexpected )token|cookie"
    r"|(?:api|access|private|secret|account|signing|encryption|subscription|master)[ _-]?key|credentials?"
    r"|session[ _-]?id|connection[ _-]?string|(?<![a-z])jwt|(?<=[\"'])auth(?=[\"'\\])|(?<![a-z])auth(?= ?=))"
    r"(?:[ _-]?(?:id|value|hash|base64|b64))?(?:_?\d{1,2}|(?-i:(?:_[A-Z0-9]{1,20}){1,2}(?==)))?"
    r"(?: (?:provided|given|value|is|was))?"
)
_SEPARATOR = r"\\{0,7}[\"'`]?[\])]? ?(?:=>|:=|[:=]{1,2}|%3[ad]|(?<! )>) ?"
# A quote ends a value only where no word follows: a password may hold a quote.
_QUOTED = r"[bru]{0,2}(?P<q>\\{0,7}[\"'`])(?:(?!(?P=q)(?!\w))\\?.)*+(?:(?P=q)|$)"
# An unquoted value ends at a space, or where the next parameter begins.
_VALUE = (
    rf"(?:(?:bearer|basic|digest|token|negotiate) )?(?:{_QUOTED}|\[[^\]]*+\]?|\{{[^}}]*+\}}?|\([^)]*+\)?"
    r"|(?:(?![&;,] ?[\w.%-]{1,40}=)\S)++)"
)
# What follows an option or a scheme in a sentence about it.
_PROSE = (
    r"(?:is|are|was|must|requires?|required|needs?|needed|missing|not|and|or|to|for|with|without|has|of|option|flag"
    r"|argument|tokens?|auth|authentication|authorization|scheme|header|can(?:no|')t)(?:[\s.,;:)\"']|$)"
)
# --key value, key=value, "key": "value", KEY 'value'
_ASSIGNMENT = (
    rf"((?<![\w-])--?[\w-]{{0,40}}?{_KEY}[\"']?(?: |, ?)(?!{_PROSE}|[\"']?--)"
    rf"|{_KEY}(?:{_SEPARATOR}| (?=[\"'`]))|identified by (?=[\"'`])){_VALUE}"
)
_HEADER = (
    rf"((?:authorization|cookie)(?:{_SEPARATOR}|[\"'] ?, ?))"
    rf"(?:{_QUOTED}|\S+(?: \S+)?(?:[,;]? [\w-]{{1,40}}=(?:\"[^\"]*+\"?|\S+)){{0,20}})"
)
_SIGNED = (
    r"((?:x-(?:amz|goog|ms|oss|cos)-[a-z-]{0,40}(?:signature|credential|token|key)|signature|accesskeyid"
    r"|googleaccessid|key-pair-id|(?<![\w-])(?:sig|se|sv)|(?<=[?&])(?:code|st|sp|sr|skoid|sktid))"
    r"(?:=|%3d|: ?))[^&\s\"'<>]+"
)
# A name in somebody's code has underscores where these tokens have none.
_TOKEN = (
    rf"{_EDGE}(?-i:phx_[\w-]{{6,}}|sk-[\w-]{{6,}}|[sr]k_(?:live|test)_\w{{6,}}|gh[pousr]_[^\W_]{{6,}}|github_pat_\w{{6,}}"
    r"|glpat-[\w-]{6,}|xox[a-z]-[\w-]{6,}|xapp-[\w-]{6,}|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{20,}|ya29\.[\w-]{6,}"
    r"|npm_[^\W_]{20,}|pypi-[\w-]{16,}|hf_[^\W_]{16,}|dapi[0-9a-f]{16,}|LS0tLS1CRUdJTi[\w+/=-]*"
    r"|eyJ[\w+/=-]{6,}(?:\.[\w+/=-]*){0,4})"
)
_FOLDER = r"[^\s/\\:\"'`<>,;)\]}]+"
_UNIX_HOME = (
    rf"(?:(?<![\w.~-])|{_ESCAPE}|(?<=(?<!\w)-[a-z]))"
    r"(?:/mnt/[a-z]|/private|/var|/export|/usr)?(?-i:/(?:home|Users)/)" + _FOLDER
)
_WINDOWS_HOME = (
    rf"{_EDGE}[a-z]:[\\/]{{1,8}}(?:users|documents and settings)[\\/]{{1,8}}"
    rf"(?:[^\\/:*?\"<>|]{{1,64}}(?=[\\/])|{_FOLDER})"
)

# An IP address: four numbers, with dots or as a cloud's host name has them. One of five or more parts is none.
_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d?\d)"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}(?!\d|\.\d)"
_ANY_IPV4 = (
    rf"(?:(?<!\d)(?<!\d\.)|{_ESCAPE})"
    rf"(?:{_IPV4}|(?:(?<![^\W_])(?:ip|ec2)-|(?<![\w-])(?=[\d-]{{7,15}}+\.[a-z])){_OCTET}(?:-{_OCTET}){{3}}(?![^\W_]|-\d))"
)
_GROUP, _COLON = r"[0-9a-f]{1,4}", r"(?::|%3a)"
# With `::` it may also be a slice (1::2) or a name in somebody's code (ace::bad): it is an address if it begins as
# those that are in use do, if it has three colons, or if it is ::1 alone.
_IN_USE = (
    rf"(?=[23][0-9a-f]{{3}}{_COLON}|(?!feed)f[c-f][0-9a-f]{{2}}{_COLON}"
    rf"|(?:[0-9a-f]{{0,4}}{_COLON}){{3}}|(?<!\w\[){_COLON}{{2}}1(?!\w))"
)
_IPV6 = (
    rf"((?:(?<![\w:%\\])|{_ESCAPE})(?:(?=[0-9a-f]{{0,40}}+[g-z_])\w{{1,40}}+:)?)"
    rf"(?:(?:{_GROUP}{_COLON}){{7}}{_GROUP}|(?:{_GROUP}{_COLON}){{6}}{_IPV4}"
    rf"|{_IN_USE}(?:{_GROUP}(?:{_COLON}{_GROUP}){{0,6}})?{_COLON}{{2}}(?:(?:{_GROUP}{_COLON}){{0,5}}(?:{_IPV4}|{_GROUP}))?)"
    # what follows is no further group; and the zone, of which a URL escapes the sign
    rf"(?!\w|::|:{_GROUP}(?!\w))(?:%(?:25)?(?![2357][0-9a-f])\w(?:[.-]?\w){{0,31}})?"
)
# The address of a network card; a fingerprint has more groups.
_CARD = r"(?<![\w:-])[0-9a-f]{2}(?P<s>[:-])(?:[0-9a-f]{2}(?P=s)){4}[0-9a-f]{2}(?!\w|(?P=s)\w)"
# Variables of the environment, by what their names look like.
_NAME = (
    r"(?-i:(?=[A-Z0-9]{1,80}+_)[A-Z][A-Z0-9_]{1,120}+|(?:https?|all|no|ftp)_proxy|PG[A-Z]{3,12}|HOME|USER(?:NAME)?|LOGNAME"
    r"|(?:OLD)?PWD|(?:PYTHON|CLASS|GO)?PATH|HOSTNAME|COMPUTERNAME|TMPDIR|TE?MP|SHELL|MAIL|EDITOR|KUBECONFIG)"
)
_VARIABLE = (
    rf"((?:(?<!\w)|{_ESCAPE}){_NAME}(?:(?:\\{{0,7}}[\"'`])?[\])]? ?(?:=>|:=|={{1,2}}|%3d) ?|\\{{0,7}}[\"'`] ?: ?)"
    rf"|(?<=\([\"']){_NAME}[\"'] ?, ?(?=[\"'])){_VALUE}"
)

_RULES: tuple[_Rule, ...] = (
    # private keys, whole or cut off
    ("private key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [A-Z0-9 ]{0,40}-----|$)", _CUT),
    # scheme://user:password@host, up to the last @, for a password may hold one; a port is no password
    ("@", r"(:(?:\\{0,7}/){2})(?:[^\s/?#@:]{0,256}:(?!\d{1,5}/)\S{0,2000}@|[^\s/?#@]{1,512}@)", rf"\1{_CUT}@"),
    ("%40", r"(%3a%2f%2f)[^\s&\"']{0,2000}%40", rf"\1{_CUT}@"),
    ("oracle:", r"(oracle:[a-z0-9]{1,8}:)[^\s@]{1,500}@", rf"\1{_CUT}@"),
    ("@", r"(?<![\w.+%/@-])[\w.+%-]{1,64}:[^\s/]{1,200}@(?!sha256:)(?=[\w\[])", f"{_CUT}@"),
    # curl -u user:password
    ("-u", r"((?<![\w-])(?:-u|--user)[\"']?(?:[ =]|, ?)[\"']?[\w.@+-]{1,64}:)\S+", rf"\1{_CUT}"),
    ("authorization|cookie", _HEADER, rf"\1{_CUT}"),
    ("bearer", rf"({_EDGE}bearer:? )(?!{_PROSE})\S+", rf"\1{_CUT}"),
    ("basic ", rf"({_EDGE}basic )(?=\S*(?:\d|=|(?-i:[a-z][A-Z])))[\w+/-]{{4,}}={{0,2}}", rf"\1{_CUT}"),
    ("token ", rf"({_EDGE}token )(?=\S*\d)[^\s\"']{{16,}}", rf"\1{_CUT}"),
    ("=|%3d|x-", _SIGNED, rf"\1{_CUT}"),
    ("pass|pwd|secret|token|key|credential|session|string|cookie|jwt|auth|identified", _ASSIGNMENT, rf"\1{_CUT}"),
    ("phx_|k-|k_|gh|github|glpat|xox|xapp|akia|asia|aiza|ya29|npm_|pypi|hf_|dapi|ls0tls|eyj", _TOKEN, _CUT),
)
# This machine and its network.
_MACHINE: tuple[_Rule, ...] = (
    ("=|%3d|:|,", _VARIABLE, rf"\1{_CUT}"),
    (":|%3a", _IPV6, rf"\1{_IP}"),
    (":|-", _CARD, _CUT),
    (".|ip-", _ANY_IPV4, _IP),
)
# People who are not known by name: /home/x, C:\Users\x, x@example.com.
_PEOPLE: tuple[_Rule, ...] = (
    ("/home/|/users/", _UNIX_HOME, _HOME),
    ("users|documents and settings", _WINDOWS_HOME, _HOME),
    ("@|%40", r"(?<![\w.+-])(?!git@)[\w.+-]++(?:@|%40)(?:[\w-]++\.)++[\w-]+", _EMAIL),
)
