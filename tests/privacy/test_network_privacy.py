"""What delivery gives to the network, and to whom: the destination alone, by what the environment says on purpose."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from spool import Telemetry
from tests.support.local_posthog import LocalPostHog, redirect
from tests.support.processes import KEY, ROOT, environment, flush, flush_json, run_python, status
from tests.support.tls import certificate, https, needs_openssl

CANARY = "CANARY-4711"
# A port where nobody listens: whoever gets a request meant for it was not asked by mistake.
NOWHERE = "http://127.0.0.1:9"


def backlog(home: Path, url: str) -> None:
    """Spool one event: with that of the first run, two wait."""
    telemetry = Telemetry("ktx", "1", KEY, url, home, flush="never")
    assert telemetry.capture("scan_completed", {"note": CANARY})
    telemetry.close()


def waiting(home: Path) -> int:
    """Count what waits; nothing was lost, nothing was given up."""
    told = status(home)["accounting"]
    assert (told["lost"], told["dead"]) == (0, 0)
    return int(told["pending"])


# -- who you are stays here -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["HOME", "NETRC"])
def test_credentials_of_netrc_are_never_used(by: str, home: Path, tmp_path: Path, server: LocalPostHog) -> None:
    """A default entry fits every host; requests itself sends it, as the first half shows."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"default login somebody password {CANARY}\n")
    netrc.chmod(0o600)
    env = environment(**{by: str(tmp_path if by == "HOME" else netrc)})
    bare = "import requests, sys; requests.post(sys.argv[1], json={}).close()"
    assert run_python(bare, server.url, env=env).returncode == 0
    assert "Authorization" in server.requests[0].headers
    server.clear()
    backlog(home, server.url)
    report = flush_json(home, env=env)
    assert (report["exit_code"], report["delivered"]) == (0, 2)
    assert [name for request in server.requests for name in request.headers if "auth" in name.lower()] == []


# -- where it goes is not for others to say ---------------------------------------------------------------


def test_a_redirect_is_not_followed(home: Path, server: LocalPostHog) -> None:
    """Five kinds of redirect: the second server sees nothing, exit 75, everything is kept."""
    with LocalPostHog() as second:
        backlog(home, server.url)
        for code in (301, 302, 303, 307, 308):
            server.always(redirect(f"{second.url}/batch/", code))
            report = flush_json(home, "run", "--force")
            assert (report["exit_code"], report["delivered"], report["requests"]) == (75, 0, 1)
            assert "redirects" in report["reason"]
        assert second.requests == []
    assert waiting(home) == 2
    server.behave()
    assert flush_json(home, "run", "--force")["delivered"] == 2


PLANT = f"""
import os
open({{marker!r}}, "a").write(__name__ + "\\n")
os.environ["KTX_TELEMETRY_ENDPOINT"] = {NOWHERE!r}
"""
MODULES = ("flusher", "spool", "posthog", "requests", "typer", "json", "sitecustomize", "usercustomize")


def hostile_folder(folder: Path, marker: Path, elsewhere: str) -> Path:
    """A working folder with every file that some tool reads a destination, credentials or code from."""
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(PLANT.format(marker=str(marker)))
    (folder / ".env").write_text(f"KTX_TELEMETRY_ENDPOINT={elsewhere}\nPOSTHOG_HOST={elsewhere}\n")
    (folder / ".netrc").write_text(f"default login somebody password {CANARY}\n")
    (folder / "pyproject.toml").write_text(f'[tool.ktx-flush]\nhost = "{elsewhere}"\n')
    left = f'{{"host": "{elsewhere}", "project_key": "phc_theirs"}}'
    for place in (".", "spool", ".ktx/spool"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / place / "destination.json").write_text(left)
    return folder


def console_script(folder: Path) -> Path:
    """Write `ktx-flush` as pip does when it installs the package."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["ktx-flush"]
    module, function = entry.split(":")
    script = folder / "ktx-flush"
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("by", ["console script", "python -P -m flusher"])
def test_nothing_in_the_working_folder_changes_the_destination(
    by: str, home: Path, tmp_path: Path, server: LocalPostHog
) -> None:
    """None of the planted modules runs, none of the planted files is read; without -P they would run."""
    marker = tmp_path / "ran"
    with LocalPostHog() as elsewhere:
        folder = hostile_folder(tmp_path / "cwd", marker, elsewhere.url)
        backlog(home, server.url)
        module = [sys.executable, "-P", "-m", "flusher"]
        safe = [str(console_script(tmp_path))] if by == "console script" else module
        done = subprocess.run(
            [*safe, "--home", home], cwd=folder, env=environment(), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert not marker.exists()
        assert (elsewhere.requests, len(server.accepted)) == ([], 2)
        assert {request.content["api_key"] for request in server.requests} == {KEY}
        assert all("Authorization" not in request.headers for request in server.requests)
    subprocess.run([sys.executable, "-m", "flusher"], cwd=folder, env=environment(), capture_output=True, check=False)
    assert marker.exists()


def test_variables_of_posthogs_own_change_no_destination(home: Path, server: LocalPostHog) -> None:
    """What is set for another program is not for this one."""
    with LocalPostHog() as elsewhere:
        hosts = dict.fromkeys(("POSTHOG_HOST", "POSTHOG_API_HOST", "POSTHOG_ENDPOINT"), elsewhere.url)
        env = environment(**hosts, POSTHOG_API_KEY="phc_x", POSTHOG_PROJECT_API_KEY="x")
        backlog(home, server.url)
        assert flush_json(home, env=env)["delivered"] == 2
        assert elsewhere.requests == []
    assert {request.content["api_key"] for request in server.requests} == {KEY}


# -- proxies: on purpose ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_is_used_unless_no_proxy_says_otherwise(
    variable: str, home: Path, server: LocalPostHog
) -> None:
    """The proxy gets the request for the destination; under NO_PROXY the destination gets it directly."""
    with LocalPostHog() as proxy:
        backlog(home, NOWHERE)
        env = environment(**{variable: proxy.url})
        env = {name: value for name, value in env.items() if name.lower() != "no_proxy"}
        assert flush_json(home, "run", "--max-events", "1", env=env)["delivered"] == 1
        assert [request.headers["Host"] for request in proxy.requests] == ["127.0.0.1:9"]
        proxy.clear()
        env |= {"NO_PROXY": "example.com,127.0.0.1"}
        assert flush_json(home, "run", "--host", server.url, env=env)["delivered"] == 1
        assert (proxy.requests, len(server.requests)) == ([], 1)


def test_of_an_encrypted_request_a_proxy_learns_the_host_and_nothing_else(home: Path) -> None:
    """CONNECT: without a tunnel no byte of an event leaves; exit 75 names the proxy, everything is kept."""
    seen = bytearray()

    def refuse(listener: socket.socket) -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return  # closed: the test is over
            with connection:
                seen.extend(connection.recv(65_536))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    backlog(home, "https://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,), daemon=True)
        thread.start()
        env = environment(HTTPS_PROXY=f"http://127.0.0.1:{listener.getsockname()[1]}", NO_PROXY="", no_proxy="")
        report = flush_json(home, "run", "--max-retries", "0", env=env)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)
    assert (report["exit_code"], report["reason"]) == (75, "the proxy of HTTPS_PROXY can't be reached or refuses")
    assert seen.startswith(b"CONNECT 127.0.0.1:9 HTTP/1.")
    assert KEY.encode() not in seen
    assert waiting(home) == 2


# -- certificates -----------------------------------------------------------------------------------------


@needs_openssl
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE"])
def test_a_certificate_is_trusted_by_the_bundle_that_the_environment_names_and_else_refused(
    variable: str, home: Path, tmp_path: Path
) -> None:
    """Self-signed: exit 75 names the certificate, not a byte arrives, all is kept; with the bundle all arrives."""
    pem = certificate(tmp_path, "IP:127.0.0.1")
    with https(pem) as (url, bodies):
        backlog(home, url)
        report = flush_json(home, env=environment(PYTHONHTTPSVERIFY="0"))
        assert (report["exit_code"], report["delivered"], report["requests"]) == (75, 0, 1)
        assert "certificate" in report["reason"]
        assert (bodies, waiting(home)) == ([], 2)
        env = environment(**{variable: str(tmp_path / "certificate.pem")})
        report = flush_json(home, "run", "--force", env=env)
        assert (report["exit_code"], report["delivered"]) == (0, 2)
        assert len(bodies) == 1


@needs_openssl
def test_a_certificate_of_another_host_is_refused(home: Path, tmp_path: Path) -> None:
    """Trusted, but issued to somebody else."""
    pem = certificate(tmp_path, "DNS:us.i.posthog.com")
    with https(pem) as (url, bodies):
        backlog(home, url)
        report = flush_json(home, env=environment(REQUESTS_CA_BUNDLE=str(tmp_path / "certificate.pem")))
        assert (report["exit_code"], report["delivered"], bodies) == (75, 0, [])
        assert "certificate" in report["reason"]
    assert waiting(home) == 2


def test_a_ca_bundle_that_can_not_be_read_is_one_line_and_exit_2(home: Path, tmp_path: Path) -> None:
    """Delivery without it would trust other certificates than the person wanted: nothing is sent, all is kept."""
    backlog(home, "https://127.0.0.1:9")
    done = flush(home, env=environment(REQUESTS_CA_BUNDLE=str(tmp_path / "nowhere.pem")))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nowhere.pem" in done.stderr
    assert "REQUESTS_CA_BUNDLE" in done.stderr
    assert waiting(home) == 2


# -- nothing is printed -----------------------------------------------------------------------------------

LOUD = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout)
logging.getLogger("posthog").setLevel(logging.DEBUG)
"""
SDK = """
from posthog.request import post
post("phc_test", sys.argv[2], path="/batch/", batch=[{"event": "e", "distinct_id": "d", "note": "CANARY-4711"}])
"""


def test_no_debug_setting_makes_the_flusher_print_what_it_sends(home: Path, server: LocalPostHog) -> None:
    """Logging at DEBUG and PostHog's own variables; the SDK alone prints the body, as the first half shows."""
    assert CANARY in run_python(LOUD + SDK, home, server.url).stdout
    server.clear()
    backlog(home, server.url)
    env = environment(POSTHOG_DEBUG="1", POSTHOG_LOG_LEVEL="DEBUG")
    code = LOUD + "sys.argv = ['ktx-flush', '--home', sys.argv[1]]\nfrom flusher.cli import main; main()"
    done = run_python(code, home, server.url, env=env)
    assert done.returncode == 0
    assert len(server.accepted) == 2
    assert "DEBUG" in done.stdout
    assert [word for word in (CANARY, KEY) if word in done.stdout + done.stderr] == []
