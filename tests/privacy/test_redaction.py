"""What may leave the machine of an error's text: one line, without the secrets and the person that are known."""

from __future__ import annotations

import base64
import json
import platform
import time
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool.command.command_line import flags_present
from spool.exception.redaction import Redactor, error_class, redact, whereabouts

ANY_TEXT = st.text(st.characters(codec=None, categories=None))
# A secret between two rare ends, so that either half would be seen.
HEAD, END = "Kq7z", "zX9w"
HOST_SECRETS = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), max_size=30).map(lambda t: HEAD + t + END)
AROUND = st.sampled_from(["", "failed: ", "x = 1, ", '{"a": 1} ', "line\n", "\x1b[31mred\x1b[0m ", "a\\n", "%20"])

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "percent": lambda s: quote(s, safe=""),
    "percent, slashes kept": quote,
    "form": quote_plus,
    "percent, lower case": lambda s: "".join(
        f"%{byte:02x}" if byte > 127 or byte < 48 else chr(byte) for byte in s.encode()
    ),
    "percent twice": lambda s: quote(quote(s, safe=""), safe=""),
    "JSON": lambda s: json.dumps(s)[1:-1],
    "JSON, not ASCII": lambda s: json.dumps(s, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda s: json.dumps(json.dumps(s))[3:-3],
    "repr": lambda s: repr(s)[1:-1],
    "ascii": lambda s: ascii(s)[1:-1],
    "repr of bytes": lambda s: repr(s.encode())[2:-1],
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "base64 for URLs": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "base64 of user:secret": lambda s: base64.b64encode(b"u:" + s.encode()).decode(),
    "base64 of me:secret, in more": lambda s: base64.b64encode(b"me:" + s.encode() + b" more").decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@settings(deadline=None)
@given(secret=HOST_SECRETS, before=AROUND, after=AROUND)
def test_a_secret_that_the_host_names_is_found_in_every_spelling(
    spelling: str, secret: str, before: str, after: str
) -> None:
    """Neither the spelling as a whole nor either end of the secret is left."""
    spelled = SPELLINGS[spelling](secret)
    shown = redact(f"{before}{spelled}{after}", secrets=[secret])
    assert "<redacted>" in shown
    assert spelled not in shown
    assert HEAD not in shown
    assert END not in shown
    if "base64" in spelling and len(spelled) > 16:
        assert spelled[6:-6] not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/alice/x and file:///data/alice", "~/x and file:~"),
        ("-L/data/alice/lib", "-L~/lib"),
        ("'\\\\data\\\\alice\\\\x' %2Fdata%2Falice%2Fx", "'~\\\\x' ~%2Fx"),
        ("/data/alice-old, /data/alicette", "~-old, /data/alicette"),
        ("role ALICE.S does not exist, alice.s_db, malice.s", "role <user> does not exist, <user>_db, malice.s"),
        ("line\\nalice.s: bad", "line\\n<user>: bad"),
    ],
)
def test_the_home_and_the_name_of_the_person_go(text: str, shown: str) -> None:
    """In any case of letters, with either slash, escaped; a longer word that holds the name stays."""
    assert redact(text, home="/data/alice/", user="alice.s") == shown


def test_the_name_is_also_known_by_the_home() -> None:
    """USER may be unset, or root under sudo; a home on Windows may hold a space."""
    assert redact("role alice", home="/home/alice") == "role <user>"
    assert redact(r"c:\users\JO DOE\x of jo doe", home=r"C:\Users\Jo Doe") == r"~\x of <user>"
    assert redact("/srv/x", home="/srv") == "~/x"


@pytest.mark.parametrize("home", ["", "/", "C:\\", ".", "home", "//"])
def test_a_home_that_names_nobody_changes_nothing(home: str) -> None:
    """Else every slash would be a home."""
    text = r"C:\x and /a/b in home ."
    assert redact(text, home=home, user="") == text


def test_the_environment_tells_who_is_here() -> None:
    """Root is nobody; Windows has names of its own; the machine is always known."""
    here = platform.node()
    assert whereabouts({"HOME": "/home/a", "USER": "root", "LOGNAME": "al"}) == ("/home/a", "al", here)
    assert whereabouts({"USERPROFILE": r"C:\Users\a", "USERNAME": "a"}) == (r"C:\Users\a", "a", here)
    assert whereabouts({"HOME": "/root", "USER": "root", "SUDO_USER": "al"}) == ("/root", "al", here)
    assert whereabouts({}) == (None, None, here)


@pytest.mark.parametrize(
    ("machine", "text", "shown"),
    [
        ("janes-mac.local", "no route from JANES-MAC.local, janes-mac: x", "no route from <host>, <host>: x"),
        ("build.acme.example", "rebuild of build-7 failed", "rebuild of <host>-7 failed"),
        ("localhost", "can't reach localhost:5432", "can't reach localhost:5432"),
        ("localhost.localdomain", "can't reach localhost:5432", "can't reach localhost:5432"),
        ("db", "can't reach db", "can't reach db"),
        (None, "can't reach db", "can't reach db"),
    ],
)
def test_the_name_of_the_machine_goes(machine: str | None, text: str, shown: str) -> None:
    """With and without its domain, as a word; not where it says nothing, nor where it is in any text."""
    assert redact(text, machine=machine) == shown


@settings(deadline=None)
@given(ANY_TEXT, st.lists(ANY_TEXT, max_size=3), ANY_TEXT, ANY_TEXT, st.integers(-5, 60))
def test_any_text_becomes_one_line_within_its_limit(
    text: str, secrets: list[str], home: str, user: str, limit: int
) -> None:
    """Whatever the text, the secrets, the home and the name are."""
    shown = redact(text, secrets=secrets, home=home, user=user, limit=limit)
    assert len(shown) <= max(0, limit)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0 for sign in shown)


def test_secrets_that_are_no_texts_break_nothing() -> None:
    """None, bytes, numbers; one text instead of a list; a list that can't be read: then nothing is shown."""
    assert redact("a hunter2 b 123456", secrets=[None, b"hunter2", 123456]) == "a <redacted> b <redacted>"  # type: ignore[list-item]  # on purpose
    assert redact("a hunter2 b", secrets="hunter2") == "a <redacted> b"
    assert redact("a hunter2 b", secrets=5) == "<redacted>"  # type: ignore[arg-type]  # on purpose
    assert redact(5) == "<redacted>"  # type: ignore[arg-type]  # on purpose
    assert redact("the key abc", secrets=["abc", "ab", "a", "", "  "]) == "the key <redacted>"


def test_overlapping_secrets_leave_no_rest() -> None:
    """The longer one is not broken up by the shorter, nor by one that shares a part with it."""
    assert redact("x hunter2-more y", secrets=["hunter2", "hunter2-more"]) == "x <redacted> y"
    assert redact("x abcdefgh y", secrets=["abcdef", "defgh"]) == "x <redacted> y"


def test_a_long_secret_goes_even_where_it_is_cut_off() -> None:
    """A key file of several thousand characters, over lines, whole or its first half."""
    key = "\n".join(f"{number:04d}" + "kLm9" * 15 for number in range(60))
    for text in (key, key.replace("\n", "\\n"), quote(key), base64.b64encode(key.encode()).decode()):
        shown = redact(f"bad key {text} end", secrets=[key])
        assert "kLm9" not in shown
        assert len(shown.replace("<redacted>", "")) < 60
    assert "kLm9" not in redact("bad key " + key[:600], secrets=[key])


@pytest.mark.parametrize("form", ["{}", "password={}", "postgres://u:{}@host", "phx_{}", "Authorization: Basic {}"])
@pytest.mark.parametrize("filler", ["password='" + "a" * 19_000 + "' ", "a " * 9_400])
def test_a_cut_through_a_secret_leaves_no_half_of_it(form: str, filler: str) -> None:
    """Texts are cut at 24,000 characters before they are read: a secret at every place around the cut."""
    secret = HEAD + "0123456789abcdef" * 4 + END
    redactor = Redactor([secret])
    spelled = form.format(secret)
    for start in (*range(19_900, 20_010, 20), *range(24_000 - len(spelled) - 5, 24_010, 6)):
        text = filler + "b" * (start - len(filler) - 1) + " " + spelled + " tail" * 500
        shown = redactor(text, limit=30_000)
        assert not any(secret[at : at + 4] in shown for at in range(len(secret) - 3)), start


HOSTILE = [
    "a", " ", "\\", "-", ":", "%25", "password", "password=", 'password="', "password='\\", "token: [", "secret(",
    "--a ", "-u a:", "--a-a-a-password-", "://a:b", "://", "a@", "a.", "a:", "a@a.", "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ", "authorization: ", "authorization: a b, a=b", ", a=b", "x-amz-", "sig=", "/home/", "C:\\Users\\",
    "bearer ", "basic ", "basic a", "token ", "eyJ", "eyJaaaaaa.", "TOKEN_A_A", "%3a%2f%2f", "oracle:a:", "hunter",
    "1.", "10.0.0.", "10.0.0.1.", "1:", "::", "f:", "fe80::", "fe80::1%", "%3a", "2001:db8::1:", "00:", "00-", "ip-",
    "g:", "A_", "A_A=", "KTX_A='", "KTX_A=[", "('A_B', ", "PATH=",
    "hunter2", "\\\\hunter", '\\\\"', '\\\\\\"', "/data/", "al", "\ue000", "\x1b[", "\x1b[0;", "'", '\\"',
]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_no_text_takes_long(piece: str) -> None:
    """A megabyte of each: some tens of milliseconds, where a rule that goes wrong takes minutes."""
    text = piece * (1_000_000 // len(piece))
    redactor = Redactor(
        ["hunter2", "p@ss w\\rd/x", "\\" * 30 + "x", '\\"' * 30 + "x", "a+" * 20],
        "/data/alice",
        "alice",
        "janes-mac.local",
    )
    started = time.perf_counter()
    redactor(text)
    redactor("password=" + text)
    redactor("KTX_NAME=" + text)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ValueError", "ValueError"),
        ("_Private", "_Private"),
        ("E2BIG_error", "E2BIG_error"),
        ("A" * 80, "A" * 80),
        ("A" * 81, None),
        ("error", None),
        ("__", None),
        ("Bad-Name", None),
        ("Failed for alice@example.com", None),
        ("Ünfall", None),
        ("Line\n", None),
        ("", None),
    ],
)
def test_an_errors_class_is_told_only_if_it_looks_like_one(name: str, told: str | None) -> None:
    """A class that is made at run time could bear any data as its name."""
    made = type(name, (Exception,), {})
    assert error_class(made()) == told
    assert error_class(made) == told


def test_a_class_can_not_lie_about_its_name() -> None:
    """The interpreter is asked, not the class."""

    class Meta(type):
        __name__ = property(lambda _: "Hunter2")

    class Honest(Exception, metaclass=Meta):  # noqa: N818 - the name is the test
        __class__ = property(lambda _: KeyError)

    assert error_class(Honest()) == "Honest"


def test_flags_are_told_by_name_and_never_by_value() -> None:
    """Given means neither None nor False nor empty; a name that is no name is left out."""
    flags = {
        "json": True,
        "quiet": False,
        "host": "db.example.com",
        "user": None,
        "tags": [],
        "retries": 0,
        "x" * 65: True,
        "--password": "hunter2",
        "a=hunter2": True,
        "9": True,
        "": True,
        5: True,
    }
    assert flags_present(flags) == {  # type: ignore[arg-type]  # a name that is no text, on purpose
        "json": True,
        "quiet": False,
        "host": True,
        "user": False,
        "tags": False,
        "retries": True,
    }


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), st.text(min_size=1).map(lambda text: HEAD + text)))
def test_no_value_of_a_flag_is_ever_told(flags: dict[str, object]) -> None:
    """Names and truth values are all that comes out."""
    told = flags_present(flags)
    assert HEAD not in json.dumps(told)
    assert all(type(value) is bool for value in told.values())
