"""C2SP signed notes (c2sp.org/signed-note) and Ed25519 cosignatures (c2sp.org/tlog-cosignature). Trust zone: every TEE.

A note is text, an empty line, and signature lines. Anybody may have written any of it: lines of keys that the reader
does not know are ignored, a line of a known key must verify, and at least one known key must have signed.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, unique

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from trusted.errors import LedgerError, Reason
from trusted.wire import exactly, sha256

MAX_NOTE_BYTES = 1 << 19  # a checkpoint and 1024 cosignatures, with names of 200 characters
MAX_SIGNATURES = 1 + 1024
MAX_TIME_S = (1 << 63) - 1  # c2sp.org/tlog-cosignature
MAX_NAME_LENGTH = 200
_MAX_SIGNATURE_BYTES = 1 << 13  # of a line of an unknown algorithm; post-quantum ones have 5 kB
_KEY_ID_BYTES = 4
KEY_BYTES = 32
_SIGNATURE_BYTES = 64
_TIME_BYTES = 8
_DASH = "— "


@unique
class SignatureType(Enum):
    """The algorithms that are known here, by their byte in a key id."""

    ED25519 = 1
    COSIGNATURE = 4  # Ed25519 with the time, cosignature/v1


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A name and the Ed25519 key (32 bytes) that signs under it, in one way."""

    name: str
    type: SignatureType
    public_key: bytes

    def __post_init__(self) -> None:
        _require(_is_name(self.name), "verifier key: not a key name")
        exactly(self.public_key, KEY_BYTES, "verifier key")

    @property
    def key_id(self) -> bytes:
        """Four bytes: no hash to rely on, a hint which key to try."""
        return sha256(self.name.encode() + b"\n" + self._encoded())[:_KEY_ID_BYTES]

    def encode(self) -> str:
        """``name+hash+base64``, as it is handed around."""
        return f"{self.name}+{self.key_id.hex()}+{b64encode(self._encoded()).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """The key that ``text`` spells, of one of the known types.

        Raises:
            LedgerError: MALFORMED.
        """
        name, claimed_id, encoded = (*text.split("+", 2), "", "")[:3]
        _require(len(text) <= MAX_NAME_LENGTH + 64 and bool(encoded), "verifier key: name+hash+base64 expected")
        raw = _base64(encoded, "verifier key")
        types = {one.value: one for one in SignatureType}
        _require(len(raw) == 1 + KEY_BYTES and raw[0] in types, "verifier key: of no known type")
        key = cls(name, types[raw[0]], raw[1:])
        _require(key.key_id.hex() == claimed_id, "verifier key: its hash is another key's")
        return key

    def verify(self, text: str, signature: bytes) -> None:
        """Refuse unless this key made ``signature``, without key id, of ``text``.

        Raises:
            LedgerError: LEDGER_SIGNATURE.
        """
        message, signed = text.encode(), signature
        if self.type is SignatureType.COSIGNATURE:
            time_s, signed = int.from_bytes(signature[:_TIME_BYTES], "big"), signature[_TIME_BYTES:]
            message = _cosigned(text, time_s)
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(signed, message)
        except (InvalidSignature, ValueError):
            raise LedgerError(Reason.LEDGER_SIGNATURE, "note: a known key did not make its signature") from None

    def _encoded(self) -> bytes:
        return bytes([self.type.value]) + self.public_key


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: whose it says it is, and what stands after the key id. Not verified."""

    name: str
    key_id: bytes
    signature: bytes

    def encode(self) -> str:
        """The line, without its newline."""
        return f"{_DASH}{self.name} {b64encode(self.key_id + self.signature).decode()}"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """The signature in ``line``, without its newline.

        Raises:
            LedgerError: MALFORMED.
        """
        _require(line.startswith(_DASH) and line.count(" ") == 2, "note: a line is no signature")
        _, name, encoded = line.split(" ")
        _require(_is_name(name), "note: not a key name")
        raw = _base64(encoded, "note")
        _require(_KEY_ID_BYTES < len(raw) <= _MAX_SIGNATURE_BYTES, "note: not the length of a signature")
        return cls(name, raw[:_KEY_ID_BYTES], raw[_KEY_ID_BYTES:])

    def is_of(self, key: VerifierKey) -> bool:
        """Whether the line names ``key``."""
        return (self.name, self.key_id) == (key.name, key.key_id)


@dataclass(frozen=True, slots=True)
class Note:
    """A text, which ends in a newline, and lines that may or may not be signatures of it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> bytes:
        """The note as it is stored and handed around."""
        return (self.text + "\n" + "".join(f"{one.encode()}\n" for one in self.signatures)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """The note in ``data``.

        Raises:
            LedgerError: TOO_LARGE, MALFORMED.
        """
        if len(data) > MAX_NOTE_BYTES:
            raise LedgerError(Reason.TOO_LARGE, f"note: more than {MAX_NOTE_BYTES} bytes")
        try:
            whole = data.decode()
        except UnicodeDecodeError:
            raise LedgerError(Reason.MALFORMED, "note: not UTF-8") from None
        _require(all(letter >= " " or letter == "\n" for letter in whole), "note: a control character")
        text, separator, lines = whole.rpartition("\n\n")
        _require(bool(separator and text and lines) and lines.endswith("\n"), "note: text and signatures expected")
        signatures = lines[:-1].split("\n")
        _require(len(signatures) <= MAX_SIGNATURES, f"note: more than {MAX_SIGNATURES} signatures")
        return cls(text + "\n", tuple(NoteSignature.parse(line) for line in signatures))

    def with_signatures(self, *more: NoteSignature) -> Note:
        """The note with ``more`` lines, each once."""
        return replace(self, signatures=tuple(dict.fromkeys((*self.signatures, *more))))

    def signers(self, keys: Sequence[VerifierKey]) -> frozenset[VerifierKey]:
        """Those of ``keys`` that signed; at least one.

        Raises:
            LedgerError: LEDGER_SIGNATURE: none of them did, or a line that names one of them does not verify.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found = set()
        for line in self.signatures:
            key = known.get((line.name, line.key_id))
            if key is not None:
                key.verify(self.text, line.signature)
                found.add(key)
        if not found:
            raise LedgerError(Reason.LEDGER_SIGNATURE, "note: not signed by a known key")
        return frozenset(found)


def sign(text: str, name: str, key: Ed25519PrivateKey) -> NoteSignature:
    """The line by which ``name`` signs ``text``."""
    verifier = VerifierKey(name, SignatureType.ED25519, key.public_key().public_bytes_raw())
    return NoteSignature(name, verifier.key_id, key.sign(text.encode()))


def cosign(text: str, name: str, key: Ed25519PrivateKey, *, time_s: int) -> NoteSignature:
    """The line by which the witness ``name`` says that it saw ``text`` at ``time_s`` (seconds since 1970)."""
    verifier = VerifierKey(name, SignatureType.COSIGNATURE, key.public_key().public_bytes_raw())
    signed = key.sign(_cosigned(text, time_s))
    return NoteSignature(name, verifier.key_id, time_s.to_bytes(_TIME_BYTES, "big") + signed)


def _cosigned(text: str, time_s: int) -> bytes:
    _require(0 <= time_s <= MAX_TIME_S, "cosignature: not a time")
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _is_name(name: str) -> bool:
    printable = all(letter >= " " and letter != "+" and not letter.isspace() for letter in name)
    return 0 < len(name) <= MAX_NAME_LENGTH and printable


def _base64(text: str, what: str) -> bytes:
    """The bytes of ``text``, in their one spelling."""
    try:
        raw = b64decode(text, validate=True)
    except ValueError:
        raise LedgerError(Reason.MALFORMED, f"{what}: not base64") from None
    _require(b64encode(raw).decode() == text, f"{what}: not base64 in its one spelling")
    return raw


def _require(holds: bool, detail: str) -> None:
    if not holds:
        raise LedgerError(Reason.MALFORMED, detail)
