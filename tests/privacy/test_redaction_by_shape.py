"""Secrets that nobody named are known by what surrounds them; what helps to mend the fault stays."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spool.exception.redaction import redact

# Between two rare ends, so that either half would be seen; of what can stand anywhere without being escaped.
HEAD, END = "Kq7z", "zX9w"
CANARIES = st.text("abcXYZ0189_-", min_size=8, max_size=40).map(lambda t: HEAD + t + END)
AROUND = st.sampled_from(["", "failed: ", "x = 1, ", '{"a": 1} ', "line\n", "\x1b[31mred\x1b[0m ", "a\\n", "%20"])

# Where a secret stands that nobody named: what surrounds it tells.
POSITIONS = {
    "URL": "connect to postgres://user:{}@db.example.com:5432/x failed",
    "URL without a user": "redis://:{}@cache:6379",
    "URL, the secret as user": "cloning https://{}@github.com/x.git",
    "URL in JSON": '{{"dsn": "mysql:\\/\\/u:{}@h\\/db"}}',
    "URL with signs in the password": "postgres://u:p@/#?{}@host/db",
    "URL, escaped": "next=postgres%3A%2F%2Fu%3A{}%40host",
    "no scheme": "can't reach admin:{}@db.local:5432",
    "no scheme, no dot": "can't reach admin:{}@localhost:5432",
    "Oracle": "jdbc:oracle:thin:scott/{}@host:1521/x",
    "key=value": "bad option password={} at 3",
    "key: value": "config line 3: api_key: {}",
    "key := value": "secret := {}",
    "environment": "DB_PASSWORD={} OPENAI_API_KEY_PROD=x not set",
    "environment with a suffix": "GITHUB_TOKEN_CI={}",
    "camel case": "invalid config: dbPassword={};Server=x",
    "JSON": '{{"user": "u", "client_secret": "{}", "b": 1}}',
    "JSON, spaces": '{{"apiKey" : "a b {} c"}}',
    "JSON, nested": '{{"secret": {{"value": "{}"}}}}',
    "JSON in JSON": '"{{\\"password\\": \\"{}\\", \\"a\\": 1}}"',
    "repr": "{{'access_key': '{}', 'b': 2}}",
    "repr of bytes": "{{'token': b'{}'}}",
    "a quote in the value": 'password="a"b {} c" and more',
    "list": "tokens? no: secrets=['a', '{}']",
    "pair": "requests.get(url, auth=('user', '{}'))",
    "XML": "<password>{}</password>",
    "index": "os.environ['API_TOKEN'] = '{}'",
    "option": "ktx connect --password {} --host db",
    "option with =": "ktx connect --db-password={} --host db",
    "option in a list": "Command '['mysql', '--password', '{}']' returned 1",
    "user of curl": "Command '['curl', '-u', 'me:{}', 'https://x']' failed",
    "SQL": "ALTER USER x WITH PASSWORD '{}' at line 1",
    "SQL of MySQL": "CREATE USER x IDENTIFIED BY '{}'",
    "query": "GET /x?access_token={}&a=1",
    "query, escaped": "url=https%3A%2F%2Fx%3Ftoken%3D{}",
    "header, basic": "Authorization: Basic {}",
    "header, bearer": "'authorization': 'Bearer {}'",
    "header, any scheme": "Proxy-Authorization: Foo {} next",
    "header, digest": 'Authorization: Digest username="u", realm="r", response="{}"',
    "header, signature": "Authorization: AWS4-HMAC-SHA256 Credential=a/b, SignedHeaders=h, Signature={}",
    "header in a pair": "[('Authorization', 'Custom {}')]",
    "header, key": "X-Api-Key: {}",
    "cookie": "Set-Cookie: a=1; session={}; Path=/",
    "bearer": "sent Bearer {} and got 401",
    "bearer in a value": "token: Bearer {}",
    "basic": "sent Basic {}1= and got 401",
    "token of a framework": "sent Token {}1234567890abcdef and got 401",
    "Amazon": "https://b.s3.amazonaws.com/k?X-Amz-Credential=c&X-Amz-Signature={}&x=1",
    "Amazon, session": "?X-Amz-Security-Token={}&x",
    "Amazon, old": "?AWSAccessKeyId={}&Expires=1",
    "Google": "https://storage.googleapis.com/b?X-Goog-Signature={}",
    "Azure": "https://a.blob.core.windows.net/c?sv=2024&se=2025&sp=r&sig={}",
    "signature": "?Expires=1&Signature={}&Key-Pair-Id=K",
    "Azure account": "DefaultEndpointsProtocol=https;AccountKey={};EndpointSuffix=x",
    "key file": "-----BEGIN RSA PRIVATE KEY-----\nMII {}\nabc\n-----END RSA PRIVATE KEY-----\nend",
    "key file, cut off": "bad key: -----BEGIN PRIVATE KEY-----\\nMII{}\\n",
    "after a provided key": "Incorrect API key provided: {}. You can find",
    "phx": "phx_{}",
    "JWT": "eyJhbGciOi.eyJ{}.c2ln",
    "GitLab": "glpat-{}",
    "OpenAI": "key sk-proj-{} is over quota",
    "e-mail": "no such account: {}@example.com",
    "home on Linux": "No such file: '/home/{}/x.csv'",
    "home on macOS": "/Users/{}/Library/x",
    "home on Windows": r"C:\Users\{}\AppData\x",
    "home on Windows, with a space": r"C:\Users\Jo {}\AppData\x",
    "home on Windows, escaped": r"'C:\\Users\\{}\\AppData'",
    "home in WSL": "/mnt/c/Users/{}/x",
}


@pytest.mark.parametrize("position", POSITIONS)
@settings(max_examples=50, deadline=None)
@given(canary=CANARIES, before=AROUND, after=AROUND)
def test_a_secret_that_nobody_named_is_known_by_what_surrounds_it(
    position: str, canary: str, before: str, after: str
) -> None:
    """A canary in each position: neither end of it is left."""
    shown = redact(f"{before}{POSITIONS[position].format(canary)} {after}")
    assert HEAD not in shown
    assert END not in shown


@pytest.mark.parametrize(
    "token",
    [
        "ghp_" + "a1B2" * 9,
        "github_pat_" + "a1B2_" * 9,
        "xoxb-123456-abcdef",
        "xoxp-123456-abcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "phx_abcdef123456",
        "glpat-abcdef123456",
        "sk-abc123def456",
        "sk_live_abc123def456",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    ],
)
def test_a_well_known_token_goes_wherever_it_stands(token: str) -> None:
    """Alone, in a sentence, in a list, after an escape."""
    for text in (token, f"got {token}.", f"['{token}', 1]", f"line\\n{token}\\n", f"a%20{token}"):
        shown = redact(text)
        assert token[5:] not in shown
        assert token[4:12] not in shown


# What may stand around an address; {} is the address.
BESIDE = [
    "{}", "connect to {}: refused", "no route to {}.", "host={}, port=1", "('{}', 80)", "line\\n{}\\n", "http://[{}]:80/x",
    "{}/24 is full", "addr:{}", "[IPv6:{}]", "%5B{}%5D", '{{"peer": "{}"}}',
]  # fmt: skip
# Those that are in use: of all others with `::` some are slices, or names in somebody's code.
NETWORKS = st.sampled_from(["2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "::ffff:0:0/96", "64:ff9b::/96"])


@pytest.mark.parametrize("beside", BESIDE)
@settings(max_examples=50, deadline=None)
@given(address=st.ip_addresses(v=4))
def test_an_ipv4_address_goes_wherever_it_stands(beside: str, address: IPv4Address) -> None:
    """Alone, in a sentence, in an address of the web, with its port; what stands beside it stays."""
    shown = redact(beside.format(f"{address}:5432"))
    assert shown == beside.format("<ip>:5432")
    assert redact(f"ip-{str(address).replace('.', '-')}.ec2.internal") == "<ip>.ec2.internal"


@pytest.mark.parametrize("beside", BESIDE)
@settings(max_examples=50, deadline=None)
@given(address=NETWORKS.flatmap(lambda network: st.ip_addresses(network=network)))
def test_an_ipv6_address_goes_in_every_form(beside: str, address: IPv6Address) -> None:
    """Compressed and whole, in either case of letters, escaped for a URL, mapped, with a zone."""
    forms = [address.compressed, address.exploded, address.compressed.upper(), str(address).replace(":", "%3A")]
    if address.ipv4_mapped is not None:
        forms += [f"::ffff:{address.ipv4_mapped}", f"0:0:0:0:0:ffff:{address.ipv4_mapped}"]
    if not beside.startswith("%5B"):
        forms += [f"{address}%eth0", f"{address}%25en0"]
    for form in forms:
        assert redact(beside.format(form)) == beside.format("<ip>"), form


@pytest.mark.parametrize(
    "text", ["IP{}", "tcp{}", "v{}", "host{}.example.com", "ec2-{-}.compute-1.example", "http://{-}.example.net/x"]
)
def test_an_ipv4_address_that_begins_no_word_goes_too(text: str) -> None:
    """Behind a word, and as the clouds name their machines."""
    address = "10.21.202.3"
    shown = redact(text.replace("{}", address).replace("{-}", address.replace(".", "-")))
    assert shown == text.replace("ec2-", "").replace("{}", "<ip>").replace("{-}", "<ip>")


def test_the_loopback_and_the_address_of_a_network_card_go() -> None:
    """The shortest address there is; and what TELEMETRY.md says of the card."""
    assert redact("connect to ::1, [::1]:80 and '::1' failed") == "connect to <ip>, [<ip>]:80 and '<ip>' failed"
    assert redact("no lease for 00:1A:2b:3c:4d:5e") == "no lease for <redacted>"
    assert redact("no lease for 00-1a-2b-3c-4d-5e.") == "no lease for <redacted>."


@pytest.mark.parametrize(
    "text",
    [
        "needs version 1.2.3, found 10.0.0 and v3.11.7",
        "object 1.3.6.1.4.1.311, sum 1.234.567.890, 256.1.1.1",
        "at 12:30:45, 2026-11-30T12:30:45.123456+00:00 and 1:2:3",
        "std::vector, a::b, abc::def, feed::add, dead::beef, ace::bad::fee, crate::mod::f, ::text",
        "a[1::2], x[::2], x[::-1], x[::1], y[1:2:3] and z[:, ::2]",
        "fingerprint ab:cd:ef:01:23:45:67:89:ab:cd:ef:01:23:45:67:89:ab:cd:ef:01",
        "digest d41d8cd98f00b204e9800998ecf8427e, test_x.py::test_1",
        ":::8080 and :: are taken",
    ],
)
def test_what_only_looks_like_an_address_stays(text: str) -> None:
    """Versions of three parts, times, names in code, slices and digests."""
    assert redact(text) == text


# A variable of the environment with its value; the value is the canary.
VARIABLES = {
    "assignment": "KTX_HOME={} not found",
    "assignment, quoted": "export MY_SETTING='a b {} c'; next",
    "assignment in code": "os.environ['KTX_PROFILE'] = 'a {}'",
    "assignment, escaped": "next=KTX_PROFILE%3D{}&x=1",
    "of a command": "env A_B=1 MYCLI_X2={} mycli",
    "dump": "environ({{'KTX_PROFILE': 'a b {} c', 'X': 1}})",
    "dump in JSON": '{{"KTX_PROFILE": "a b {} c"}}',
    "dump in JSON in JSON": '"{{\\"KTX_PROFILE\\": \\"{}\\"}}"',
    "dump of pairs": "[('KTX_PROFILE', 'a {}')]",
    "proxy": "http_proxy=http://{}:3128 refused",
    "without an underscore": "PGHOST={} HOME=/srv",
    "after an escape": "line\\nKTX_HOME={}\\n",
}


@pytest.mark.parametrize("position", VARIABLES)
@settings(max_examples=50, deadline=None)
@given(canary=CANARIES, before=AROUND, after=AROUND)
def test_the_value_of_a_variable_goes(position: str, canary: str, before: str, after: str) -> None:
    """Known by the name before it: no list of names, since every program has its own."""
    shown = redact(f"{before}{VARIABLES[position].format(canary)} {after}")
    assert HEAD not in shown
    assert END not in shown


@pytest.mark.parametrize(
    "text",
    [
        "connection refused by db.example.com:5432",
        "KTX_HOME and KTX_TELEMETRY_ENDPOINT: not set",
        "missing: ['KTX_A', 'KTX_B']",
        "SQLCODE=-204, SQLSTATE=42704, DRIVER=4.19",
        "no such table: tokens",
        "tokenizer failed at 5",
        "max_tokens=4096 is too many",
        'password authentication failed for user "reader"',
        "option --password requires an argument",
        "Bearer token missing",
        "basic authentication failed",
        "Unexpected token '<' in JSON at position 3",
        "unexpected token: SELECT",
        "primary key: id, foreign key: order_id",
        "KeyError: 'id'",
        "[Errno 2] No such file or directory: 'schema.sql'",
        "https://packages.example.org/@scope/pkg gave 404",
        "http://localhost:8080/@scope/pkg gave 404",
        "image repo:1.2@sha256:abcdef",
        "git@github.com: permission denied",
        "compass: north, bypass=1, author: none",
        "GET /api/home/page and /users/42 gave 500",
        "sk_learn_utils and hf_hub_download_and_cache_all are no tokens",
        "SELECT a, b FROM c WHERE d = 'e' LIMIT 10",
        "tried 3 hosts in 12:30:45.1, 2 > 1 & 1 < 2",
    ],
)
def test_what_helps_to_mend_the_fault_stays_readable(text: str) -> None:
    """Unchanged, also with a home and a name that the text doesn't hold."""
    assert redact(text) == text
    assert redact(text, home="/home/alice", user="alice", secrets=["hunter2", "", "ab"]) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:p@ss/w@host/db: refused", "postgres://<redacted>@host/db: refused"),
        ('{"password": "hun\\"ter2", "host": "db"}', '{"password": <redacted>, "host": "db"}'),
        ("Server=db;Password=a,b;c;Database=x", "Server=db;Password=<redacted>;Database=x"),
        ("GET /x?token=abc&table=users", "GET /x?token=<redacted>&table=users"),
        ("two\n\tlines\x00 of\u2028text", "two lines of text"),
        ("\x1b[1mpassword\x1b[0m: hunter2", "password: <redacted>"),
        ("no file /home/alice/a/b.csv", "no file ~/a/b.csv"),
        ("mail bob.b+x@example.co.uk", "mail <email>"),
        ("", ""),
        ("x" * 1000, "x" * 1000),
        ("x" * 1001, "x" * 997 + "..."),
    ],
)
def test_only_the_secret_part_goes(text: str, shown: str) -> None:
    """Host, database, file and the other parameters stay: they are what the fault is about."""
    assert redact(text) == shown
