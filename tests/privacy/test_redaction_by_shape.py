"""Secrets that nobody named are known by what surrounds them; what helps to mend the fault stays."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    "text",
    [
        "connection refused by db.example.com:5432",
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
