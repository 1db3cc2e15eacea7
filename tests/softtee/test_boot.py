"""What an enclave is started with, and how it asks its platform: records from a host that may be lying."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.errors import ProtocolError, Reason, TeeError, WireError
from trusted.evidence.boot import Role, decode_boot, encode_boot
from trusted.evidence.software import SEALING_REQUEST, PlatformEvidence
from trusted.wire import length_prefixed, pack

Given = TypeVar("Given")
EVIDENCE = Evidence(EvidenceFormat.SNP, b"r" * 1184, (b"cek", b"ask", b"ark"), b"")


class NoEvidence:
    """A provider that a test does not ask."""

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return ()

    def evidence(self, report_data: bytes) -> Evidence:
        raise NotImplementedError


def test_boot_comes_out_as_it_went_in() -> None:
    provider = NoEvidence()
    boot = decode_boot(encode_boot(Role.AGGREGATOR, b"c", b"p", {"door": "/run/door"}), provider)
    assert (boot.role, boot.charter, boot.plan, boot.options) == (Role.AGGREGATOR, b"c", b"p", {"door": "/run/door"})
    assert boot.provider is provider


@pytest.mark.parametrize(
    "record",
    [
        b"",
        encode_boot(Role.WORKER, b"c", b"p", {})[:-1],
        encode_boot(Role.WORKER, b"c", b"p", {}) + b"\0",
        pack("cloister/boot/v1", b"observer", b"c", b"p", b"{}"),
        pack("cloister/boot/v1", b"worker", b"c", b"p", b"[]"),
        pack("cloister/boot/v1", b"worker", b"c", b"p", b"{ }"),
        pack("cloister/boot/v2", b"worker", b"c", b"p", b"{}"),
        pack("cloister/boot/v1", b"worker", b"c", b"p"),
    ],
    ids=["empty", "short", "long", "role", "list", "not-canonical", "label", "fields"],
)
def test_other_boot_records_are_refused(record: bytes) -> None:
    with pytest.raises(WireError):
        decode_boot(record, NoEvidence())


@given(st.binary(max_size=200))
def test_any_boot_record_is_decoded_or_refused(record: bytes) -> None:
    for candidate in (record, pack("cloister/boot/v1", b"worker", record, b"", b"{}"), record + b"\0"):
        try:
            decode_boot(candidate, NoEvidence())
        except ProtocolError:
            continue


def asked(answer: bytes | None, report_data: bytes = b"x" * 64) -> tuple[Evidence, bytes]:
    """What a provider makes of ``answer`` (None: the platform hangs up), and what it sent."""
    return _asked(answer, lambda provider: provider.evidence(report_data))


def _asked(answer: bytes | None, ask: Callable[[PlatformEvidence], Given]) -> tuple[Given, bytes]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    received: list[bytes] = []

    def platform() -> None:
        with ours, contextlib.suppress(BrokenPipeError):
            received.append(ours.recv(100))
            if answer is not None:
                ours.send(answer)

    thread = threading.Thread(target=platform)
    thread.start()
    try:
        provider = PlatformEvidence(theirs)
        return ask(provider), received[0]
    finally:
        theirs.close()
        thread.join()


def test_the_platform_is_sent_64_bytes_and_its_evidence_returned() -> None:
    assert asked(length_prefixed(EVIDENCE.encode())) == (EVIDENCE, b"x" * 64)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"\0",
        length_prefixed(EVIDENCE.encode())[:-1],
        length_prefixed(EVIDENCE.encode()) + b"\0",
        length_prefixed(b"no evidence"),
        length_prefixed(b""),
    ],
    ids=["gone", "a-byte", "short", "long", "other", "empty"],
)
def test_any_other_answer_is_an_error(answer: bytes | None) -> None:
    with pytest.raises(TeeError) as refused:
        asked(answer)
    assert refused.value.reason is Reason.TEE_REPORT


def sealing_asked(answer: bytes | None) -> tuple[bytes, bytes]:
    """The sealing key that a provider makes of ``answer``, and what it sent."""
    return _asked(answer, lambda provider: provider.sealing_key(b"a use"))


def test_the_request_for_a_sealing_key_is_none_for_evidence_and_its_answer_is_never_the_key_itself() -> None:
    key, sent = sealing_asked(length_prefixed(b"k" * 32))
    assert sent == SEALING_REQUEST
    assert len(sent) != 64
    assert (len(key), key == b"k" * 32) == (32, False)
    assert sealing_asked(length_prefixed(b"k" * 32))[0] == key
    assert sealing_asked(length_prefixed(b"l" * 32))[0] != key


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"\0",
        b"k" * 36,
        length_prefixed(b"k" * 31),
        length_prefixed(b"k" * 33),
        length_prefixed(b"k" * 32) + b"\0",
    ],
    ids=["gone", "a-byte", "no-length", "short", "long", "trailing"],
)
def test_any_other_sealing_key_is_an_error(answer: bytes | None) -> None:
    with pytest.raises(TeeError) as refused:
        sealing_asked(answer)
    assert refused.value.reason is Reason.TEE_REPORT


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_of_another_length_is_never_sent(size: int) -> None:
    with pytest.raises(WireError):
        asked(length_prefixed(EVIDENCE.encode()), b"x" * size)
