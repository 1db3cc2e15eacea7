"""The TPM client against a real swtpm, and against devices that lie, stall or are not there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.conftest import REPORT_DATA
from tests.attestation.quotes import Quote, sized, u16, u32
from tests.attestation.swtpm import software_tpm
from tests.attestation.test_tcg_event_log import SHA256, event, header
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme, parse_public
from trusted.attestation.policies.rules import Skip
from trusted.attestation.policies.tpm import strict_tpm_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify.tpm import key_sha256, public_key
from trusted.errors import AttestationError, Reason, TeeError, WireError
from trusted.evidence.tpm import PcrChoice, TpmEvidence, detect
from trusted.evidence.tpm_client import TpmClient, TpmKey
from trusted.evidence.tpm_transport import DeviceTransport, SocketTransport

CHOICE = PcrChoice(Bank.SHA256, (4, 9, 11))
INDEX = 0x01500020
PERSISTENT = 0x81010020
EXPECTED = Expected(REPORT_DATA, bytes(32))
RETRY, YIELDED, TESTING, FAILURE = 0x922, 0x908, 0x90A, 0x101


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmClient]:
    """A TPM for this file; its PCRs only ever grow."""
    with software_tpm(tmp_path_factory.mktemp("tpm")) as client:
        yield client


def root_of(ak: TpmKey) -> TrustRoot:
    """The charter that vouches for ``ak``."""
    return TrustRoot(EvidenceFormat.TPM, "swtpm", key_sha256(public_key(parse_public(ak.public))))


# A real TPM.


@pytest.mark.parametrize("scheme", [item for item in Scheme if item is not Scheme.RSASSA_SHA384])
def test_a_real_quote_verifies_and_meets_the_template(tpm: TpmClient, scheme: Scheme, now: datetime) -> None:
    ak = tpm.create_ak(scheme)
    provider = TpmEvidence(tpm, CHOICE, ak=ak)
    root = root_of(provider.ak)
    verified = verify(provider.evidence(REPORT_DATA), [root], now)
    tpm.flush(ak.handle)
    policy = strict_tpm_policy(
        [verified.claims.measurement], selection=CHOICE.indexes, keys=[root.sha256], assurance=Assurance.NONE
    )
    result = appraise(verified, replace(policy, event_log=Skip("no firmware ran")), EXPECTED, now)
    assert result.measurement == scheme.hash.digest(b"".join(tpm.read_pcrs(Bank.SHA256, CHOICE.indexes)))
    assert verified.claims.quote.reset_count == 1
    assert provider.devices(REPORT_DATA) == ()


def test_the_attestation_key_is_the_same_each_time(tpm: TpmClient) -> None:
    first = tpm.create_ak()
    assert tpm.read_public(first.handle) == first.public
    tpm.flush(first.handle)
    second = tpm.create_ak()
    tpm.flush(second.handle)
    assert second.public == first.public


def test_what_is_measured_shows_in_the_next_quote(tpm: TpmClient, now: datetime, tmp_path: Path) -> None:
    """A log of what was extended explains the quoted value; one event less does not."""
    ak = tpm.create_ak()
    log = tmp_path / "log"
    provider = TpmEvidence(tpm, PcrChoice(Bank.SHA256, (14,)), ak=ak, event_log=log)
    written = header(SHA256)
    for content in (b"one", b"two"):
        tpm.extend_pcr(14, Bank.SHA256, Bank.SHA256.digest(content))
        log.write_bytes(written)
        short = verify(provider.evidence(REPORT_DATA), [root_of(ak)], now)
        assert short.claims.quote.replayed == frozenset()
        written += event(14, content, algorithms=(SHA256,))
        log.write_bytes(written)
        assert verify(provider.evidence(REPORT_DATA), [root_of(ak)], now).claims.quote.replayed == {14}
    tpm.flush(ak.handle)


def test_all_registers_of_both_banks_are_read(tpm: TpmClient) -> None:
    for bank in Bank:
        values = tpm.read_pcrs(bank, range(24))
        assert [len(value) for value in values] == [bank.size_bytes] * 24
        assert values[17] == b"\xff" * bank.size_bytes  # nobody launched dynamically
        assert tpm.read_pcrs(bank, (17, 3)) == (values[3], values[17])


def test_a_key_can_be_kept_and_taken_away(tpm: TpmClient) -> None:
    ak = tpm.create_ak()
    tpm.make_persistent(ak.handle, PERSISTENT)
    tpm.flush(ak.handle)
    assert tpm.read_public(PERSISTENT) == ak.public
    tpm.make_persistent(PERSISTENT, PERSISTENT)
    with pytest.raises(TeeError):
        tpm.read_public(PERSISTENT)


def test_an_index_is_defined_written_and_read_in_pieces(tpm: TpmClient) -> None:
    assert tpm.nv_index(INDEX) is None
    with pytest.raises(TeeError) as error:
        tpm.nv_read(INDEX)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    tpm.nv_define(INDEX, 512)
    with pytest.raises(TeeError) as error:  # defined, and never written
        tpm.nv_read(INDEX)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    content = bytes(range(256)) * 2
    tpm.nv_write(INDEX, content)
    assert tpm.nv_read(INDEX) == content
    with pytest.raises(TeeError):
        tpm.nv_define(INDEX, 512)


def test_random_bytes_have_the_length_that_was_asked_for(tpm: TpmClient) -> None:
    assert len(tpm.random(32)) == 32
    assert tpm.random(32) != tpm.random(32)
    for size in (0, 33, -1):
        with pytest.raises(ValueError, match="size"):
            tpm.random(size)


def test_a_restart_makes_the_same_key_and_counts(tmp_path: Path, now: datetime) -> None:
    counts, publics = [], []
    for _ in range(2):
        with software_tpm(tmp_path) as client:
            provider = TpmEvidence(client, CHOICE)
            claims = verify(provider.evidence(REPORT_DATA), [root_of(provider.ak)], now).claims
            counts.append(claims.quote.reset_count)
            publics.append(provider.ak.public)
    assert publics[0] == publics[1]
    assert counts[1] == counts[0] + 1


def test_a_quote_does_not_verify_under_another_tpms_key(tpm: TpmClient, tmp_path: Path, now: datetime) -> None:
    ours = tpm.create_ak()
    evidence = TpmEvidence(tpm, CHOICE, ak=ours).evidence(REPORT_DATA)
    tpm.flush(ours.handle)
    with software_tpm(tmp_path) as other:
        theirs = other.create_ak()
    with pytest.raises(AttestationError) as error:
        verify(evidence, [root_of(theirs)], now)
    assert error.value.reason is Reason.TRUST_ANCHOR
    mixed = replace(evidence, parts=tuple(sorted((dict(evidence.parts) | {"ak": theirs.public}).items())))
    with pytest.raises(AttestationError) as error:
        verify(mixed, [root_of(theirs)], now)
    assert error.value.reason is Reason.EVIDENCE_SIGNATURE


def test_what_no_command_can_carry_is_the_callers_bug(tpm: TpmClient) -> None:
    with pytest.raises(ValueError, match="digest"):
        tpm.extend_pcr(14, Bank.SHA256, bytes(48))
    with pytest.raises(ValueError, match="selection"):
        tpm.read_pcrs(Bank.SHA256, (24,))
    with pytest.raises(ValueError, match="content"):
        tpm.nv_write(INDEX, bytes(513))


def test_report_data_of_another_length_is_refused(tpm: TpmClient) -> None:
    ak = tpm.create_ak()
    with pytest.raises(WireError):
        TpmEvidence(tpm, CHOICE, ak=ak).evidence(bytes(32))
    tpm.flush(ak.handle)


# Devices that are not one.


@dataclass
class Scripted:
    """Answers in turn, and the last one for ever."""

    answers: list[bytes]
    asked: list[bytes] = field(default_factory=list)

    def exchange(self, command: bytes) -> bytes:
        self.asked.append(command)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer(parameters: bytes = b"", *, code: int = 0, sessions: bool = False) -> bytes:
    body = u32(len(parameters)) + parameters + bytes(5) if sessions else parameters
    return u16(0x8002 if sessions else 0x8001) + u32(10 + len(body), code) + body


def client(*answers: bytes) -> tuple[TpmClient, Scripted, list[float]]:
    pauses: list[float] = []
    device = Scripted(list(answers))
    return TpmClient(device, pause=pauses.append), device, pauses


def test_a_command_is_sent_again_when_the_tpm_asks_for_it() -> None:
    busy = [answer(code=code) for code in (RETRY, YIELDED, TESTING)]
    tpm, device, pauses = client(*busy, answer(sized(b"\x07" * 4)))
    assert tpm.random(4) == b"\x07" * 4
    assert len(set(device.asked)) == 1
    assert len(device.asked) == 4
    assert pauses == sorted(pauses)
    assert len(pauses) == 3


def test_a_tpm_that_stays_busy_or_fails_is_an_error() -> None:
    tpm, device, pauses = client(answer(code=RETRY))
    with pytest.raises(TeeError, match="stays busy") as error:
        tpm.random(4)
    assert error.value.reason is Reason.TEE_REPORT
    assert len(device.asked) == 20
    assert sum(pauses) < 60
    with pytest.raises(TeeError, match="0x101"):
        client(answer(code=FAILURE))[0].random(4)


@pytest.mark.parametrize(
    "call",
    [
        lambda tpm: tpm.random(4),
        lambda tpm: tpm.create_ak(),
        lambda tpm: tpm.read_public(1),
        lambda tpm: tpm.quote(1, bytes(32), Bank.SHA256, (4,)),
        lambda tpm: tpm.read_pcrs(Bank.SHA256, (4,)),
        lambda tpm: tpm.nv_read(INDEX),
    ],
)
@given(content=st.binary(max_size=60), sessions=st.booleans())
def test_any_answer_is_read_or_refused(call: Callable[[TpmClient], object], content: bytes, sessions: bool) -> None:
    with contextlib.suppress(TeeError):
        call(client(answer(content, sessions=sessions))[0])


def test_a_tpm_without_the_bank_is_an_error() -> None:
    nothing = answer(u32(7, 1) + u16(0x0B) + b"\x03\x00\x00\x00" + u32(0))
    with pytest.raises(TeeError, match="no bank sha256"):
        client(nothing)[0].read_pcrs(Bank.SHA256, (4,))
    other = answer(u32(7, 1) + u16(0x0B) + b"\x03\x01\x00\x00" + u32(1) + sized(bytes(32)))
    with pytest.raises(TeeError, match="no bank sha256"):
        client(other)[0].read_pcrs(Bank.SHA256, (4,))


def test_registers_that_change_during_every_quote_are_an_error(tpm: TpmClient) -> None:
    ak = tpm.create_ak()
    tpm.flush(ak.handle)
    quoted = answer(sized(Quote().encode()) + u16(0x18, 0x0B) + sized(b"r") + sized(b"s"), sessions=True)
    read = answer(u32(7, 1) + u16(0x0B) + b"\x03\x10\x0a\x00" + u32(3) + sized(bytes(32)) * 3)
    device = Scripted([quoted, read] * 5)
    with pytest.raises(TeeError, match="changed during each"):
        TpmEvidence(TpmClient(device), CHOICE, ak=ak).evidence(REPORT_DATA)
    assert len(device.asked) == 10


def test_no_device_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match="load the driver") as error:
        detect(CHOICE, device=tmp_path / "tpmrm0")
    assert error.value.reason is Reason.TEE_DEVICE_MISSING


def test_a_file_that_is_no_tpm_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "tpmrm0"
    path.write_bytes(b"")
    transport = DeviceTransport(path)
    with pytest.raises(TeeError) as error:
        TpmClient(transport).random(4)
    assert error.value.reason is Reason.TEE_REPORT
    transport.close()


@pytest.mark.parametrize("said", [b"", b"\x80\x01", u16(0x8001) + u32(9, 0), u16(0x8001) + u32(5000, 0) + bytes(100)])
def test_a_socket_that_breaks_off_or_talks_too_much_is_an_error(said: bytes) -> None:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        theirs.recv(4096)
        theirs.sendall(said)
        theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    transport = SocketTransport(ours)
    with pytest.raises(TeeError) as error:
        TpmClient(transport).random(4)
    thread.join()
    transport.close()
    assert error.value.reason is Reason.TEE_REPORT


def test_a_log_that_cannot_be_read_or_sent_is_an_error(tpm: TpmClient, tmp_path: Path) -> None:
    ak = tpm.create_ak()
    for path in (tmp_path / "none", tmp_path / "large"):
        (tmp_path / "large").write_bytes(bytes((256 << 10) + 1))
        with pytest.raises(TeeError, match="event log") as error:
            TpmEvidence(tpm, CHOICE, ak=ak, event_log=path).evidence(REPORT_DATA)
        assert error.value.reason is Reason.TEE_REPORT
    tpm.flush(ak.handle)
