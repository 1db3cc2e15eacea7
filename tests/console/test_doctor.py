"""``cloister doctor``: each thing that is wrong is found, told with what to do, and no secret is told with it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import machine_checks
from console.finding import Severity
from console.machine_checks import canonical, packages, read_lock
from console.network_checks import proxies, split_address
from console.output import UserError
from console.protection_checks import tee_device
from softtee.measure import LOCK
from tests.console.conftest import Answer, Cloister
from worker.proxies import proxy_for

SECRET = "correct-horse"
PROXY_NAMES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def check(answer: Answer, name: str) -> dict[str, Any]:
    """The one finding ``name``."""
    (found,) = [item for item in answer.data["checks"] if item["name"] == name]
    return dict(found)


def test_a_machine_is_looked_at_without_being_asked_for_more(cloister: Cloister, tmp_path: Path) -> None:
    answer = cloister("doctor", "--state", tmp_path / "not" / "yet" / "there")
    names = [item["name"] for item in answer.data["checks"]]
    assert names == [
        *("python", "platform", "packages", "clock", "entropy", "disk", "tee device", "software tee"),
        *("software tpm", "proxy"),
    ]
    assert answer.code == (1 if answer.data["problems"] else 0)
    assert all(item["advice"] for item in answer.data["checks"] if item["severity"] != "ok")
    assert str(tmp_path) in check(answer, "disk")["found"]
    assert not (tmp_path / "not").exists()


def test_people_read_the_same(cloister: Cloister, tmp_path: Path) -> None:
    said = cloister("doctor", "--state", tmp_path, json=False).stdout
    assert "ok       clock: " in said
    assert "things looked at." in said.splitlines()[-1]


def test_a_laptop_without_a_tee_is_warned_and_told_what_that_means(tmp_path: Path) -> None:
    found = tee_device(tmp_path)
    assert found.severity is Severity.WARNING
    assert "/dev/sev-guest" in found.found
    assert "NO HARDWARE PROTECTION" in found.advice


def test_the_tee_that_is_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nsm").touch()
    found = tee_device(tmp_path)
    assert found.severity is Severity.OK
    assert "nsm at /dev/nsm" in found.found


def test_the_lock_of_this_repository_reads() -> None:
    pinned = read_lock(LOCK.read_text())
    assert "cryptography" in pinned
    assert all(version and " " not in version for version in pinned.values())


@pytest.mark.parametrize(("given_name", "one"), [("A_b", "a-b"), ("a..b", "a-b"), ("x-_.y", "x-y")])
def test_package_names_have_one_spelling(given_name: str, one: str) -> None:
    assert canonical(given_name) == one


def test_a_package_at_another_version_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "constraints.txt"
    lock.write_text("# a comment\nTyper == 0.0.1\nnumpy==0.0.1  # another\n")
    found = packages(lock)
    assert found.severity is Severity.WARNING
    assert "2 at another version: numpy, typer" in found.found
    assert packages(tmp_path / "none.txt").severity is Severity.PROBLEM


@pytest.mark.parametrize(
    ("version", "pin", "same"),
    [("2.1", "2.1", True), ("2.1+cpu", "2.1", True), ("2.1", "2.1+cpu", False), ("2.10", "2.1", False)],
)
def test_a_pin_without_a_label_means_every_build(version: str, pin: str, same: bool) -> None:
    assert machine_checks.satisfies(version, pin) is same


@pytest.mark.parametrize("days", [-160, 40_000])
def test_an_impossible_year_is_a_problem(days: int) -> None:
    possible = datetime(2026, 6, 1, tzinfo=UTC)
    assert machine_checks.clock(possible).severity is not Severity.PROBLEM
    assert machine_checks.clock(possible + timedelta(days=days)).severity is Severity.PROBLEM


def test_proxy_variables_are_told_by_name_alone() -> None:
    found = proxies({"https_proxy": f"http://somebody:{SECRET}@proxy.example:3128", "no_proxy": "internal.example"})
    assert found.severity is Severity.WARNING
    assert "https_proxy, no_proxy" in found.found
    for hidden in (SECRET, "somebody", "proxy.example", "internal.example"):
        assert hidden not in repr(found)


def test_a_proxy_that_grpc_would_not_see_is_told() -> None:
    found = proxies({"HTTPS_PROXY": "http://proxy.example:3128"})
    assert (found.severity, "HTTPS_PROXY" in found.found) == (Severity.WARNING, True)
    both = {"HTTPS_PROXY": "http://proxy.example:3128", "https_proxy": "http://proxy.example:3128"}
    assert proxies(both).severity is Severity.OK


@pytest.mark.parametrize(
    ("bypass", "straight"),
    [("", False), ("example", True), (".example", True), ("host.example", True), ("*", True), ("ample", False)],
)
def test_no_proxy_is_read_by_domains(bypass: str, straight: bool) -> None:
    environment = {"https_proxy": "http://p:1", "no_proxy": bypass}
    assert (proxy_for("host.example", environment) is None) is straight


@given(st.text(max_size=30))
def test_an_address_is_read_or_told_to_be_none(text: str) -> None:
    try:
        host, port = split_address(text, "--listen")
    except UserError:
        return
    assert host
    assert 0 <= port <= 65535


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert split_address("[::1]:8443", "--listen") == ("::1", 8443)


def test_a_port_that_is_taken_is_a_problem_and_a_free_one_is_not(cloister: Cloister, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = cloister("doctor", "--state", tmp_path, "--listen", address)
        assert (answer.code, check(answer, "port")["severity"]) == (1, "problem")
    assert check(cloister("doctor", "--state", tmp_path, "--listen", address), "port")["severity"] == "ok"
    assert cloister("doctor", "--listen", "here").error["code"] == "CLI-001"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A worker's folder in order."""
    folder = tmp_path / "site"
    folder.mkdir(mode=0o700)
    for name in ("worker-key.pem", "credential.dsse.json", "site-policy.dsse.json"):
        (folder / name).write_text(SECRET)
    (folder / "worker-key.pem").chmod(0o600)
    return folder


def test_a_site_in_order_is_well(cloister: Cloister, site: Path) -> None:
    answer = cloister("doctor", "--state", site, "--site", site)
    assert check(answer, "site folder")["severity"] == "ok"
    assert check(answer, "key worker-key.pem")["severity"] == "ok"
    assert SECRET not in answer.stdout + answer.stderr


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_that_others_may_reach_is_a_problem(cloister: Cloister, site: Path, mode: int) -> None:
    (site / "worker-key.pem").chmod(mode)
    answer = cloister("doctor", "--state", site, "--site", site)
    assert (answer.code, check(answer, "key worker-key.pem")["severity"]) == (1, "problem")
    assert "chmod 600" in check(answer, "key worker-key.pem")["advice"]


@pytest.mark.parametrize("name", ["worker-key.pem", "credential.dsse.json", "site-policy.dsse.json"])
def test_a_missing_paper_is_named(cloister: Cloister, site: Path, name: str) -> None:
    (site / name).unlink()
    answer = cloister("doctor", "--state", site, "--site", site)
    assert name in check(answer, "site folder")["found"]
    assert answer.code == 1


def test_a_folder_that_others_write_to_is_a_problem(cloister: Cloister, site: Path) -> None:
    site.chmod(0o777)
    assert check(cloister("doctor", "--state", site, "--site", site), "site folder")["severity"] == "problem"


def test_a_link_is_no_key(cloister: Cloister, site: Path, tmp_path: Path) -> None:
    (site / "worker-key.pem").rename(tmp_path / "key")
    (site / "worker-key.pem").symlink_to(tmp_path / "key")
    assert check(cloister("doctor", "--state", site, "--site", site), "key worker-key.pem")["severity"] == "problem"


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes one request and gives ``answer``; its address, and what it was asked."""
    asked: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        server.settimeout(10)

        def serve() -> None:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(4096))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}", asked
        thread.join()


def test_a_proxy_that_wants_a_password_is_told_so(cloister: Cloister, tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as (proxy, asked):
        route = ["--coordinator", "coordinator.example:8443", "--proxy", f"http://{proxy}"]
        answer = cloister("doctor", "--state", tmp_path, *route)
    assert asked[0].startswith(b"CONNECT coordinator.example:8443 HTTP/1.1\r\n")
    assert "407" in check(answer, "coordinator tcp")["found"]
    assert answer.code == 1


def test_a_proxys_password_is_sent_to_the_proxy_and_told_to_nobody(cloister: Cloister, tmp_path: Path) -> None:
    with answering(b"HTTP/1.1 403 Forbidden\r\n\r\n") as (proxy, asked):
        (tmp_path / "proxy").write_text(f"http://user:{SECRET}@{proxy}\n")
        route = ["--coordinator", "coordinator.example:8443", "--proxy-file", tmp_path / "proxy"]
        answer = cloister("doctor", "--state", tmp_path, *route)
    assert b"Proxy-Authorization: Basic" in asked[0]
    assert "403" in check(answer, "coordinator tcp")["found"]
    assert SECRET not in answer.stdout + answer.stderr


def test_nobody_there_is_told_and_nothing_further_is_tried(cloister: Cloister, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    answer = cloister("doctor", "--state", tmp_path, "--coordinator", address)
    assert "refused" in check(answer, "coordinator tcp")["found"]
    assert [item["name"] for item in answer.data["checks"] if item["name"].startswith("coordinator")] == [
        "coordinator tcp"
    ]


def test_something_that_speaks_no_tls_is_told(cloister: Cloister, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            for _ in range(2):  # the TCP check, then the handshake
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    connection.sendall(b"SSH-2.0-other\r\n")
                    connection.settimeout(5)
                    connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        answer = cloister("doctor", "--state", tmp_path, "--coordinator", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert check(answer, "coordinator tls")["found"].startswith("no TLS")


def test_a_file_that_is_no_ca_is_told(cloister: Cloister, tmp_path: Path) -> None:
    for content in ("", "text", "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n", "é"):
        (tmp_path / "ca.pem").write_text(content)
        with closing(socket.create_server(("127.0.0.1", 0))) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
            route = ["--coordinator", address, "--ca", tmp_path / "ca.pem"]
            answer = cloister("doctor", "--state", tmp_path, *route)
        assert "no certificate" in check(answer, "coordinator tls")["found"]
