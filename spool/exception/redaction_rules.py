"""Secrets and people by their shape: the table of what goes out of a text that nobody named as secret.

Each rule takes a bounded time on any text: what repeats is possessive, bounded, or tried from one place only.
"""

from __future__ import annotations

__all__ = ["CUT", "EDGE", "EMAIL", "HOME", "MARKS", "PEOPLE", "RULES", "USER", "Rule"]

# Each mark is one character, so that no rule makes a text longer; they are written out at the end.
MARKS = {"\ue000": "<redacted>", "\ue001": "<email>", "\ue002": "<user>", "\ue003": "~"}
CUT, EMAIL, USER, HOME = MARKS

# What a text must hold, in lower case, for the rule to be worth a look; the rule; what it leaves.
Rule = tuple[str, str, str]

# The start of a word, also after an escape that ends in a letter or a digit (\n, %20).
_ESCAPE = r"(?<=\\[nrt])|(?<=%[0-9a-f][0-9a-f])"
EDGE = rf"(?:(?<![^\W_])|{_ESCAPE})"
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
    rf"{EDGE}(?-i:phx_[\w-]{{6,}}|sk-[\w-]{{6,}}|[sr]k_(?:live|test)_\w{{6,}}|gh[pousr]_[^\W_]{{6,}}|github_pat_\w{{6,}}"
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
    rf"{EDGE}[a-z]:[\\/]{{1,8}}(?:users|documents and settings)[\\/]{{1,8}}"
    rf"(?:[^\\/:*?\"<>|]{{1,64}}(?=[\\/])|{_FOLDER})"
)

RULES: tuple[Rule, ...] = (
    # private keys, whole or cut off
    ("private key", r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY.*?(?:-----END [A-Z0-9 ]{0,40}-----|$)", CUT),
    # scheme://user:password@host, up to the last @, for a password may hold one; a port is no password
    ("@", r"(:(?:\\{0,7}/){2})(?:[^\s/?#@:]{0,256}:(?!\d{1,5}/)\S{0,2000}@|[^\s/?#@]{1,512}@)", rf"\1{CUT}@"),
    ("%40", r"(%3a%2f%2f)[^\s&\"']{0,2000}%40", rf"\1{CUT}@"),
    ("oracle:", r"(oracle:[a-z0-9]{1,8}:)[^\s@]{1,500}@", rf"\1{CUT}@"),
    ("@", r"(?<![\w.+%/@-])[\w.+%-]{1,64}:[^\s/]{1,200}@(?!sha256:)(?=[\w\[])", f"{CUT}@"),
    # curl -u user:password
    ("-u", r"((?<![\w-])(?:-u|--user)[\"']?(?:[ =]|, ?)[\"']?[\w.@+-]{1,64}:)\S+", rf"\1{CUT}"),
    ("authorization|cookie", _HEADER, rf"\1{CUT}"),
    ("bearer", rf"({EDGE}bearer:? )(?!{_PROSE})\S+", rf"\1{CUT}"),
    ("basic ", rf"({EDGE}basic )(?=\S*(?:\d|=|(?-i:[a-z][A-Z])))[\w+/-]{{4,}}={{0,2}}", rf"\1{CUT}"),
    ("token ", rf"({EDGE}token )(?=\S*\d)[^\s\"']{{16,}}", rf"\1{CUT}"),
    ("=|%3d|x-", _SIGNED, rf"\1{CUT}"),
    ("pass|pwd|secret|token|key|credential|session|string|cookie|jwt|auth|identified", _ASSIGNMENT, rf"\1{CUT}"),
    ("phx_|k-|k_|gh|github|glpat|xox|xapp|akia|asia|aiza|ya29|npm_|pypi|hf_|dapi|ls0tls|eyj", _TOKEN, CUT),
)
# People who are not known by name: /home/x, C:\Users\x, x@example.com.
PEOPLE: tuple[Rule, ...] = (
    ("/home/|/users/", _UNIX_HOME, HOME),
    ("users|documents and settings", _WINDOWS_HOME, HOME),
    ("@|%40", r"(?<![\w.+-])(?!git@)[\w.+-]++(?:@|%40)(?:[\w-]++\.)++[\w-]+", EMAIL),
)
