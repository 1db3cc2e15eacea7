"""A directory of endorsements, for machines that cannot ask the vendors. Trust zone: every TEE; console.

Whoever can write the directory chooses what is in it, within what the vendors signed: nothing here is believed, the
verifier checks it all. ``index.json`` says what is there, so that a host can tell when it ends and parse none of it.
A newer statement takes the place of an older one of the same kind and name, and never the other way round.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from trusted.attestation import collateral
from trusted.attestation.collateral import Endorsement, EndorsementKind, Floors
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats import dcap
from trusted.attestation.policies.rules import read_time, write_time
from trusted.errors import AttestationError, Reason, WireError
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.sealing import sealing_key
from trusted.wire import Fields, Json, decode_json, encode_json, sha256

INDEX = "index.json"
_MAX_INDEX_BYTES = 1 << 20
_MAX_ENTRIES = 1 << 12
_FILE = re.compile(r"[0-9a-f]{64}")
_INTEL = (EvidenceFormat.TDX, EvidenceFormat.SGX)
_COLLATERAL_PART = "collateral"
# In its own eyes the store is one machine: neither numbers nor dates go back.
_STORE = b"store"
# FMSPC in a PCK certificate, as it stands in the DER: its OID and the head of an OCTET STRING (Intel SGX PCK
# Certificate and CRL Profile, section 1.3.6).
_FMSPC = bytes.fromhex("060a2a864886f84d010d01040406")
_FMSPC_BYTES = 6


@dataclass(frozen=True, slots=True)
class Stored:
    """One statement in the store, and the file that it is in (named by its SHA-256; several may share one)."""

    endorsement: Endorsement
    file: str


class CollateralStore:
    """The endorsements below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def entries(self) -> tuple[Stored, ...]:
        """What is there; nothing where there is no store yet.

        Raises:
            WireError: the index is not one.
            OSError: it cannot be read.
        """
        path = self._directory / INDEX
        if not path.exists():
            return ()
        with path.open("rb") as file:
            value = decode_json(file.read(_MAX_INDEX_BYTES + 1), max_bytes=_MAX_INDEX_BYTES)
        with Fields(value, "index") as fields:
            fields.integer("version", low=1, high=1)
            items = fields.items("entries", max_items=_MAX_ENTRIES)
        return tuple(_read_entry(item, f"index.entries[{place}]") for place, item in enumerate(items))

    def find(self, kind: EndorsementKind, name: str) -> bytes | None:
        """The file that holds this statement; None if there is none.

        Raises:
            WireError: the file is not the one that the index names, or the index is none.
            OSError: it cannot be read.
        """
        for entry in self.entries():
            if (entry.endorsement.kind, entry.endorsement.name) == (kind, name):
                return self._read(entry.file)
        return None

    def add(self, content: bytes, endorsements: Sequence[Endorsement]) -> None:
        """Keep ``content``, which says ``endorsements``, in place of what said the same before.

        Raises:
            AttestationError: COLLATERAL_ROLLBACK: something newer is there already.
            WireError: too many entries, or the index is none.
            OSError: it cannot be written.
        """
        before = self.entries()
        Floors().raised_by((entry.endorsement for entry in before), _STORE).require(endorsements, _STORE)
        said = {(item.kind, item.name) for item in endorsements}
        kept = [entry for entry in before if (entry.endorsement.kind, entry.endorsement.name) not in said]
        file = sha256(content).hex()
        entries = [*kept, *(Stored(endorsement, file) for endorsement in endorsements)]
        if len(entries) > _MAX_ENTRIES:
            raise WireError(Reason.TOO_LARGE, f"index.entries: at most {_MAX_ENTRIES}")
        self._directory.mkdir(parents=True, exist_ok=True)
        _write(self._directory / file, content)
        _write(self._directory / INDEX, encode_json({"version": 1, "entries": [_entry(entry) for entry in entries]}))
        for gone in {entry.file for entry in before} - {entry.file for entry in entries}:
            (self._directory / gone).unlink(missing_ok=True)

    def _read(self, name: str) -> bytes:
        with (self._directory / name).open("rb") as file:
            content = file.read(collateral.MAX_ENDORSEMENT_BYTES + 1)
        if sha256(content).hex() != name:
            raise WireError(Reason.MALFORMED, "collateral store: a file is not what its index names; import it again")
        return content


def endorsements_for(evidence: Evidence, store: CollateralStore) -> Evidence:
    """``evidence`` with the endorsements from ``store`` that did not come along; what came along stays.

    SNP: the revocation list of the chain's root. TDX and SGX: Intel's collateral for the platform's FMSPC.

    Raises:
        WireError, OSError: the store cannot be read.
    """
    if evidence.format is EvidenceFormat.SNP and not evidence.crl and evidence.certificates:
        return replace(evidence, crl=store.find(EndorsementKind.CRL, _common_name(evidence.certificates[-1])) or b"")
    if evidence.format in _INTEL and not evidence.part(_COLLATERAL_PART):
        found = _intel_collateral(evidence, store)
        if found is not None:
            parts = tuple(sorted((*evidence.parts, (_COLLATERAL_PART, found))))
            return replace(evidence, parts=parts)
    return evidence


@dataclass(frozen=True, slots=True)
class WithCollateral:
    """A source of evidence whose evidence takes along what the operator's store has for it."""

    tee: EvidenceProvider
    store: CollateralStore

    def evidence(self, report_data: bytes) -> Evidence:
        """The TEE's, over exactly 64 bytes, with its endorsements."""
        return endorsements_for(self.tee.evidence(report_data), self.store)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        """The TEE's devices, over exactly 64 bytes."""
        return self.tee.devices(challenge)

    def sealing_key(self, label: bytes) -> bytes:
        """The TEE's, 32 secret bytes; TEE_NO_SEALING where it has none."""
        return sealing_key(self.tee, label)


def _intel_collateral(evidence: Evidence, store: CollateralStore) -> bytes | None:
    """Intel's collateral for the FMSPC in the quote's own certificate; None if there is no quote, or nothing for it."""
    parse = dcap.parse_tdx if evidence.format is EvidenceFormat.TDX else dcap.parse_sgx
    try:
        quote, _ = parse(evidence.report)
    except AttestationError:
        return None
    leaf = quote.chain[0]
    start = leaf.find(_FMSPC) + len(_FMSPC)
    if start < len(_FMSPC):
        return None
    fmspc = leaf[start : start + _FMSPC_BYTES].hex()
    return store.find(EndorsementKind.TCB_INFO, f"{evidence.format.value.upper()} {fmspc}")


def _common_name(der: bytes) -> str:
    """The subject's common name; empty where there is none to read."""
    try:
        names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    except ValueError:
        return ""
    return str(names[0].value) if names else ""


def _read_entry(value: Any, path: str) -> Stored:
    with Fields(value, path) as fields:
        kind = EndorsementKind(fields.choice("kind", [kind.value for kind in EndorsementKind]))
        name, file = fields.text("name", max_length=256), fields.text("file")
        issued, expires = (_read_date(fields, key) for key in ("issued", "expires"))
        number = fields.take("number", int, type(None))
    if not _FILE.fullmatch(file):
        raise WireError(Reason.MALFORMED, f"{path}.file: a SHA-256 expected")
    return Stored(Endorsement(kind, name, issued, expires, number), file)


def _read_date(fields: Fields, key: str) -> datetime | None:
    text = fields.take(key, str, type(None))
    return None if text is None else read_time(text, fields.path(key))


def _entry(stored: Stored) -> dict[str, Json]:
    said = stored.endorsement
    return {
        "kind": said.kind.value,
        "name": said.name,
        "file": stored.file,
        "issued": None if said.issued is None else write_time(said.issued),
        "expires": None if said.expires is None else write_time(said.expires),
        "number": said.number,
    }


def _write(path: Path, content: bytes) -> None:
    """Write ``path`` whole or not at all; a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
