"""The Nitro Security Module: a fake kernel that reads the request's bytes and writes the answer where it is told."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.attestation.cose_forge import nitro
from trusted.attestation.appraise import Expected, appraise, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats import cbor
from trusted.attestation.policies.nitro import strict_nitro_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.errors import Reason, TeeError, WireError
from trusted.evidence.nsm import Nsm

REPORT_DATA = bytes(range(64))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LIMITS = {"user_data": 512, "nonce": 512, "public_key": 1024}


class FakeModule:
    """``/dev/nsm`` of one enclave: the ioctl, its buffers and its limits."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.roots: list[TrustRoot] = []
        self.error: int | None = None
        self.answer: Callable[[bytes], bytes] = lambda document: cbor.encode({"Attestation": {"document": document}})

    def ioctl(self, descriptor: int, request: int, argument: bytearray, mutate: bool) -> int:
        os.fstat(descriptor)  # an open file
        assert (request, mutate, len(argument)) == (0xC0200A00, True, 32)
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        sent, sent_bytes, room, room_bytes = struct.unpack("=QQQQ", argument)
        assert sent_bytes <= 0x1000
        assert room_bytes <= 0x3000
        answer = self._attest(ctypes.string_at(sent, sent_bytes))
        if len(answer) > room_bytes:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        ctypes.memmove(room, answer, len(answer))
        argument[:] = struct.pack("=QQQQ", sent, sent_bytes, room, len(answer))
        return 0

    def _attest(self, request: bytes) -> bytes:
        value: Any = cbor.decode(request, "request")
        assert list(value) == ["Attestation"]
        wanted = value["Attestation"]
        self.asked.append(wanted)
        if any(wanted[name] is not None and len(wanted[name]) > limit for name, limit in LIMITS.items()):
            return cbor.encode({"Error": "InvalidArgument"})
        forged = nitro(NOW, **wanted)
        self.roots.append(forged.root)
        return self.answer(forged.evidence.report)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "nsm"
    path.touch()
    return path


def why(module: FakeModule, device: Path) -> Reason:
    with pytest.raises(TeeError) as error:
        Nsm(device, ioctl=module.ioctl).evidence(REPORT_DATA)
    return error.value.reason


def test_a_document_carries_the_report_data_and_its_short_nonce(device: Path) -> None:
    module = FakeModule()
    evidence = Nsm(device, ioctl=module.ioctl).evidence(REPORT_DATA)
    assert module.asked == [{"user_data": REPORT_DATA, "nonce": short_nonce(REPORT_DATA), "public_key": None}]
    assert (evidence.format, evidence.certificates, evidence.parts) == (EvidenceFormat.NITRO, (), ())
    verified = verify(evidence, module.roots, NOW)
    policy = strict_nitro_policy([verified.claims.measurement], assurance=Assurance.NONE)
    appraise(verified, policy, Expected(REPORT_DATA, bytes(32)), NOW)


def test_each_call_asks_anew(device: Path) -> None:
    module = FakeModule()
    source = Nsm(device, ioctl=module.ioctl)
    assert source.evidence(REPORT_DATA) != source.evidence(REPORT_DATA[::-1])
    assert len(module.asked) == 2


@pytest.mark.parametrize("size", [0, 63, 65])
def test_report_data_has_its_length(device: Path, size: int) -> None:
    module = FakeModule()
    with pytest.raises(WireError):
        Nsm(device, ioctl=module.ioctl).evidence(bytes(size))
    assert module.asked == []


def test_a_missing_device_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match="no Nitro Enclave") as error:
        Nsm(tmp_path / "nsm").evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errno.ENODEV, Reason.TEE_DEVICE_MISSING),
        (errno.EIO, Reason.TEE_REPORT),
        (errno.EACCES, Reason.TEE_REPORT),
        (errno.ETIMEDOUT, Reason.TEE_REPORT),
    ],
)
def test_a_refusing_kernel_is_an_error(device: Path, error: int, reason: Reason) -> None:
    module = FakeModule()
    module.error = error
    assert why(module, device) is reason


def test_a_plain_file_is_no_module(device: Path) -> None:
    with pytest.raises(TeeError) as error:
        Nsm(device).evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT


ANSWERS: dict[str, bytes] = {
    "error": cbor.encode({"Error": "InternalError"}),
    "nothing": b"",
    "no CBOR": b"\xff",
    "a list": cbor.encode(()),
    "another answer": cbor.encode({"GetRandom": {"random": b"1"}}),
    "no document": cbor.encode({"Attestation": {}}),
    "text for a document": cbor.encode({"Attestation": {"document": "text"}}),
    "a byte left over": cbor.encode({"Attestation": {"document": b"1"}}) + b"\0",
    "too long": bytes(0x3001),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_another_answer_is_refused(device: Path, name: str) -> None:
    module = FakeModule()
    module.answer = lambda document: ANSWERS[name]
    assert why(module, device) is Reason.TEE_REPORT


def test_an_answer_of_a_length_beyond_its_buffer_is_refused(device: Path) -> None:
    def lying(descriptor: int, request: int, argument: bytearray, mutate: bool) -> int:
        argument[24:32] = struct.pack("=Q", 0x3001)
        return 0

    with pytest.raises(TeeError) as error:
        Nsm(device, ioctl=lying).evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT


def test_an_enclave_has_no_devices(device: Path) -> None:
    assert Nsm(device).devices(REPORT_DATA) == ()
