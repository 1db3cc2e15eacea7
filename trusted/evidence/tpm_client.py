"""The few TPM 2.0 commands that evidence needs, over any transport. Trust zone: every TEE.

Authorisation is by empty passwords alone, as the endorsement hierarchy, the owner and Azure's indexes have them;
nothing secret goes over the line. Source: TCG TPM 2.0 Library 1.59, part 1 section 18, part 3; tee.md section 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trusted.attestation.formats.cursor import Cursor
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.errors import ProtocolError, Reason, TeeError
from trusted.evidence.tpm_transport import TpmTransport

OWNER = 0x40000001
ENDORSEMENT = 0x4000000B
_PASSWORD = 0x40000009
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002
_EMPTY_PASSWORD = _PASSWORD.to_bytes(4, "big") + bytes(5)  # no nonce, no attributes, no password
_SUCCESS = 0
_AGAIN = (0x922, 0x908, 0x90A)  # RETRY, YIELDED, TESTING: the first use of an algorithm starts its self test
_NO_SUCH_HANDLE = 0x18B  # TPM_RC_HANDLE of the first handle: no index or key there
_ATTEMPTS = 20
_PAUSE_S = 0.05
_NV_CHUNK_BYTES = 512  # every TPM takes this much at once
_MAX_NV_BYTES = 16 << 10
_MAX_PUBLIC_BYTES = 1024
_MAX_RANDOM_BYTES = 32
_SELECT_BYTES = 3
_NV_WRITTEN = 1 << 29
_OWNER_MAY_READ_AND_WRITE = 1 << 17 | 1 << 1
_AK_ATTRIBUTES = 0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
_NULL = 0x0010
_AK_KINDS = {
    # type, scheme, then what follows the scheme's hash: a curve and no kdf, or key bits and the default exponent
    Scheme.ECDSA_P256_SHA256: (0x0023, 0x0018, bytes.fromhex("00030010") + bytes(4)),
    Scheme.ECDSA_P384_SHA384: (0x0023, 0x0018, bytes.fromhex("00040010") + bytes(4)),
    Scheme.RSASSA_SHA256: (0x0001, 0x0014, bytes.fromhex("080000000000") + bytes(2)),
    Scheme.RSASSA_SHA384: (0x0001, 0x0014, bytes.fromhex("0c0000000000") + bytes(2)),
}


@dataclass(frozen=True, slots=True)
class TpmKey:
    """A key inside the TPM: its handle, and its TPMT_PUBLIC."""

    handle: int
    public: bytes


@dataclass(frozen=True, slots=True)
class TpmQuote:
    """TPMS_ATTEST and TPMT_SIGNATURE."""

    attest: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class NvIndex:
    """One index of the TPM's memory: its size, and whether anything was ever written to it."""

    size_bytes: int
    written: bool


@dataclass(frozen=True, slots=True)
class _Command:
    """One command. ``authorised``: its first handle needs an authorisation, which is the empty password."""

    name: str
    code: int
    parameters: bytes = b""
    handles: tuple[int, ...] = ()
    authorised: bool = False

    def encode(self) -> bytes:
        """As it goes over the line."""
        body = b"".join(_u32(handle) for handle in self.handles)
        if self.authorised:
            body += _u32(len(_EMPTY_PASSWORD)) + _EMPTY_PASSWORD
        body += self.parameters
        tag = _SESSIONS if self.authorised else _NO_SESSIONS
        return _u16(tag) + _u32(10 + len(body)) + _u32(self.code) + body


class _Answer(Cursor):
    """An answer, read like any structure; what does not fit is the TPM's fault, or of whoever sits in between."""

    def error(self, rule: str) -> ProtocolError:
        """A refusal of this answer."""
        return TeeError(Reason.TEE_REPORT, f"{self._name}: {rule}")


class _NoSuchHandle(TeeError):
    """There is nothing at the handle."""


class TpmClient:
    """One TPM. Not thread-safe: a transport carries one exchange at a time.

    Every method raises TeeError (TEE_REPORT) where the TPM refuses, stays busy, or answers with something else.
    """

    def __init__(self, transport: TpmTransport, *, pause: Callable[[float], None] = time.sleep) -> None:
        """``pause`` waits between attempts, in seconds."""
        self._transport = transport
        self._pause = pause

    def random(self, size: int) -> bytes:
        """``size`` random bytes, 1 to 32."""
        if not 0 < size <= _MAX_RANDOM_BYTES:
            raise ValueError(f"size: 1 to {_MAX_RANDOM_BYTES} expected")
        content = self._run(_Command("GetRandom", 0x17B, _u16(size))).sized(2, "randomBytes", most=size)
        if len(content) != size:
            raise TeeError(Reason.TEE_REPORT, "TPM2_GetRandom: fewer bytes than asked for")
        return content

    def create_ak(self, scheme: Scheme = Scheme.ECDSA_P256_SHA256) -> TpmKey:
        """The attestation key of the endorsement hierarchy for ``scheme``: the same one each time, on one TPM."""
        kind, signing, rest = _AK_KINDS[scheme]
        public = _u16(kind) + _u16(Bank.SHA256.value) + _u32(_AK_ATTRIBUTES) + _sized(b"")
        public += _u16(_NULL) + _u16(signing) + _u16(scheme.hash.value) + rest
        sensitive = _sized(_sized(b"") + _sized(b""))
        parameters = sensitive + _sized(public) + _sized(b"") + _u32(0)
        command = _Command("CreatePrimary", 0x131, parameters, (ENDORSEMENT,), authorised=True)
        answer = self._send(command)
        handle = answer.number(4, "handle")
        return TpmKey(handle, _parameters(answer, command).sized(2, "outPublic", most=_MAX_PUBLIC_BYTES))

    def read_public(self, handle: int) -> bytes:
        """TPMT_PUBLIC of the key at ``handle``."""
        answer = self._run(_Command("ReadPublic", 0x173, handles=(handle,)))
        return answer.sized(2, "outPublic", most=_MAX_PUBLIC_BYTES)

    def flush(self, handle: int) -> None:
        """Unload a key."""
        self._run(_Command("FlushContext", 0x165, _u32(handle)))

    def make_persistent(self, handle: int, persistent: int) -> None:
        """Keep the key at ``handle`` under ``persistent``; if the two are the same, remove it from there."""
        self._run(_Command("EvictControl", 0x120, _u32(persistent), (OWNER, handle), authorised=True))

    def quote(self, ak: int, nonce: bytes, bank: Bank, selection: Sequence[int]) -> TpmQuote:
        """A quote over the PCRs of ``selection`` with ``nonce``, at most 64 bytes, in the AK's own scheme."""
        parameters = _sized(nonce) + _u16(_NULL) + _selection(bank, selection)
        answer = self._run(_Command("Quote", 0x158, parameters, (ak,), authorised=True))
        attest = answer.sized(2, "quoted", most=1024)
        return TpmQuote(attest, answer.octets(answer.left, "signature"))

    def read_pcrs(self, bank: Bank, selection: Sequence[int]) -> tuple[bytes, ...]:
        """The values of ``selection``, in rising order. A TPM gives a few at a time; others may extend in between."""
        values: dict[int, bytes] = {}
        while missing := [index for index in sorted(selection) if index not in values]:
            answer = self._run(_Command("PCR_Read", 0x17E, _selection(bank, missing)))
            answer.number(4, "pcrUpdateCounter")
            given = _given(answer, bank)
            if not given or not set(given) <= set(missing):
                raise TeeError(Reason.TEE_REPORT, f"TPM2_PCR_Read: this TPM has no bank {bank.label}, or no such PCR")
            answer.expect(4, len(given), "digests")
            values |= {index: answer.sized(2, "digest", most=bank.size_bytes) for index in given}
        return tuple(values[index] for index in sorted(selection))

    def extend_pcr(self, index: int, bank: Bank, digest: bytes) -> None:
        """Measure ``digest``, of the bank's size, into one PCR: nothing takes it back before a reboot."""
        if len(digest) != bank.size_bytes:
            raise ValueError(f"digest: {bank.size_bytes} bytes expected")
        parameters = _u32(1) + _u16(bank.value) + digest
        self._run(_Command("PCR_Extend", 0x182, parameters, (index,), authorised=True))

    def nv_index(self, index: int) -> NvIndex | None:
        """What is known about an index; None if it is not there."""
        try:
            answer = self._run(_Command("NV_ReadPublic", 0x169, handles=(index,)))
        except _NoSuchHandle:
            return None
        public = _Answer(answer.sized(2, "nvPublic", most=256), "TPM2_NV_ReadPublic", "big")
        public.octets(6, "index and nameAlg")
        written = bool(public.number(4, "attributes") & _NV_WRITTEN)
        public.sized(2, "authPolicy", most=64)
        return NvIndex(public.number(2, "dataSize"), written)

    def nv_read(self, index: int) -> bytes:
        """The whole content of an index that the owner may read.

        Raises:
            TeeError: TEE_DEVICE_MISSING, there is no such index, or nothing in it; TEE_REPORT.
        """
        known = self.nv_index(index)
        if known is None or not known.written or known.size_bytes > _MAX_NV_BYTES:
            raise TeeError(Reason.TEE_DEVICE_MISSING, f"TPM: the index {index:#010x} is not there: another platform")
        content = b""
        while len(content) < known.size_bytes:
            size = min(_NV_CHUNK_BYTES, known.size_bytes - len(content))
            parameters = _u16(size) + _u16(len(content))
            part = self._run(_Command("NV_Read", 0x14E, parameters, (OWNER, index), authorised=True))
            content += _Answer(part.sized(2, "data", most=size), "TPM2_NV_Read", "big").octets(size, "data")
        return content

    def nv_define(self, index: int, size: int) -> None:
        """Make an index of ``size`` bytes that the owner may read and write."""
        public = _u32(index) + _u16(Bank.SHA256.value) + _u32(_OWNER_MAY_READ_AND_WRITE) + _sized(b"") + _u16(size)
        self._run(_Command("NV_DefineSpace", 0x12A, _sized(b"") + _sized(public), (OWNER,), authorised=True))

    def nv_write(self, index: int, content: bytes) -> None:
        """Write an index from its start, at most 512 bytes."""
        if len(content) > _NV_CHUNK_BYTES:
            raise ValueError(f"content: at most {_NV_CHUNK_BYTES} bytes expected")
        self._run(_Command("NV_Write", 0x137, _sized(content) + _u16(0), (OWNER, index), authorised=True))

    def _run(self, command: _Command) -> _Answer:
        """The parameters of the answer to ``command``."""
        return _parameters(self._send(command), command)

    def _send(self, command: _Command) -> _Answer:
        """The answer after its header. A TPM may ask for the same command once more."""
        encoded, name = command.encode(), f"TPM2_{command.name}"
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._pause(_PAUSE_S * attempt)
            answer = _Answer(self._transport.exchange(encoded), name, "big")
            answer.octets(6, "tag and size")
            code = answer.number(4, "responseCode")
            if code == _SUCCESS:
                return answer
            if code not in _AGAIN:
                kind = _NoSuchHandle if code == _NO_SUCH_HANDLE else TeeError
                raise kind(Reason.TEE_REPORT, f"{name}: refused with the response code {code:#05x}")
        raise TeeError(Reason.TEE_REPORT, f"{name}: the TPM stays busy in {_ATTEMPTS} attempts")


def _parameters(answer: _Answer, command: _Command) -> _Answer:
    """What stands between the header, or the handle, and the authorisations."""
    size = answer.number(4, "parameterSize") if command.authorised else answer.left
    return _Answer(answer.octets(size, "parameters"), f"TPM2_{command.name}", "big")


def _given(answer: _Answer, bank: Bank) -> tuple[int, ...]:
    """The PCRs that an answer is about, which may be fewer than were asked for."""
    answer.expect(4, 1, "pcrSelectionOut")
    answer.expect(2, bank.value, "bank")
    answer.expect(1, _SELECT_BYTES, "sizeofSelect")
    bits = int.from_bytes(answer.octets(_SELECT_BYTES, "pcrSelect"), "little")
    return tuple(index for index in range(8 * _SELECT_BYTES) if bits >> index & 1)


def _selection(bank: Bank, indexes: Sequence[int]) -> bytes:
    if not indexes or not set(indexes) <= set(range(8 * _SELECT_BYTES)):
        raise ValueError("selection: PCR numbers, 0 to 23, expected")
    bits = sum(1 << index for index in set(indexes))
    return _u32(1) + _u16(bank.value) + bytes([_SELECT_BYTES]) + bits.to_bytes(_SELECT_BYTES, "little")


def _u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def _sized(content: bytes) -> bytes:
    """A TPM2B: its size, then it."""
    return _u16(len(content)) + content
