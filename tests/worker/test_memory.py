"""How a worker comes to its memory: by its operator's folder and its platform's key, or it says that it has none."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from softtee.enclave import answer
from softtee.sealing import chip_secret, enclave_key
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.boot import Boot, Role
from trusted.evidence.nsm import Nsm
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.software import PlatformEvidence
from worker.start import Options, open_vault

PLAN = b"\x01" * 32
BLANK: dict[str, Any] = {field.name: "" for field in fields(Options)} | {"coordinators": ("host.example:443",)}


@contextlib.contextmanager
def platform(seal: Callable[[], bytes]) -> Iterator[PlatformEvidence]:
    """The launcher's own answering loop, whose sealing key comes from ``seal``."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=answer, args=(ours, lambda _: pytest.fail("no evidence was needed"), seal))
    thread.start()
    provider = PlatformEvidence(theirs)
    try:
        yield provider
    finally:
        provider.close()
        thread.join()


def boot(provider: EvidenceProvider) -> Boot:
    return Boot(Role.WORKER, b"", b"", {}, provider)


@pytest.fixture
def notes() -> list[tuple[str, dict[str, object]]]:
    return []


@pytest.fixture
def note(notes: list[tuple[str, dict[str, object]]]) -> Callable[..., None]:
    return lambda event, **said: notes.append((event, said))


@pytest.fixture
def options(tmp_path: Path) -> Options:
    (tmp_path / "state").mkdir()
    return Options(**BLANK | {"state": str(tmp_path / "state")})


def key_of(chip: Path) -> Callable[[], bytes]:
    return lambda: enclave_key(chip_secret(chip), chip_id=bytes(64), measurement=bytes(48), role="worker")


def test_a_worker_finds_at_its_next_start_what_it_kept(
    options: Options, note: Callable[..., None], notes: list[object], tmp_path: Path
) -> None:
    for expected in (None, b"seen"):
        with platform(key_of(tmp_path)) as provider:
            vault = open_vault(boot(provider), options, PLAN, note)
        assert vault is not None
        assert vault.read("witness") == expected
        vault.write("witness", b"seen")
    assert notes == []


def test_without_a_folder_a_worker_says_once_that_it_remembers_nothing(
    options: Options, note: Callable[..., None], notes: list[tuple[str, dict[str, object]]], tmp_path: Path
) -> None:
    with platform(key_of(tmp_path)) as provider:
        assert open_vault(boot(provider), replace(options, state=""), PLAN, note) is None
    assert [event for event, _ in notes] == ["nothing-remembered"]
    assert "begins anew" in str(notes[0][1]["detail"])


def test_on_a_platform_without_a_sealing_key_a_worker_says_so_once_and_goes_on(
    options: Options, note: Callable[..., None], notes: list[tuple[str, dict[str, object]]], tmp_path: Path
) -> None:
    assert open_vault(boot(Nsm(tmp_path / "nsm")), options, PLAN, note) is None
    assert [(event, said["reason"]) for event, said in notes] == [("nothing-remembered", Reason.TEE_NO_SEALING.code)]
    assert "begins anew" in str(notes[0][1]["detail"])


def test_a_platform_that_has_a_key_and_gives_none_is_an_error_and_no_reason_to_forget(
    options: Options, note: Callable[..., None], notes: list[object]
) -> None:
    def broken() -> bytes:
        raise TeeError(Reason.TEE_REPORT, "broken")

    with platform(broken) as provider, pytest.raises(TeeError) as error:
        open_vault(boot(provider), options, PLAN, note)
    assert error.value.reason is Reason.TEE_REPORT
    assert notes == []


def test_a_folder_that_is_gone_is_an_error(options: Options, note: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "state").rmdir()
    with platform(key_of(tmp_path)) as provider, pytest.raises(OSError, match="state"):
        open_vault(boot(provider), options, PLAN, note)


def test_a_start_that_does_not_say_where_to_remember_is_refused() -> None:
    given = BLANK | {"coordinators": ["host:443"], "app_memory_mib": 0}
    assert Options.read(replace(boot(Nsm()), options=given)).state == ""
    del given["state"]
    with pytest.raises(WireError, match="state") as error:
        Options.read(replace(boot(Nsm()), options=given))
    assert error.value.reason is Reason.MISSING_FIELD
