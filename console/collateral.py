"""The store of endorsements as a person sees it: what it is for, how long it lasts. Trust zone: operator's machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, unique
from pathlib import Path
from typing import Any

from console.documents import load_charter, present
from console.files import MAX_CA_BYTES, read_bounded
from console.output import UserError
from trusted.attestation.collateral import (
    MAX_ENDORSEMENT_BYTES,
    Endorsement,
    EndorsementKind,
    days_left,
    recognise,
)
from trusted.attestation.policies.rules import write_time
from trusted.attestation.roots import VENDOR_ROOTS
from trusted.errors import AttestationError, Reason
from trusted.evidence.collateral_offer import Offer
from trusted.evidence.collateral_store import CollateralStore


@unique
class Standing(Enum):
    """How an endorsement stands today."""

    GOOD = "good"
    ENDS_SOON = "ends soon"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Line:
    """One endorsement with what it is for and how it stands."""

    endorsement: Endorsement
    platform: str
    days: int | None
    standing: Standing

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        said = self.endorsement
        return {
            "kind": said.kind.value,
            "name": said.name,
            "platform": self.platform,
            "number": said.number,
            "issued": None if said.issued is None else write_time(said.issued),
            "expires": None if said.expires is None else write_time(said.expires),
            "days_left": self.days,
            "standing": self.standing.value,
        }


def import_files(files: Iterable[Path], store: CollateralStore) -> list[tuple[Path, tuple[Endorsement, ...]]]:
    """Keep each of ``files`` in ``store``; all are recognised before the first is kept.

    Raises:
        UserError: a file is no endorsement that this release knows.
        AttestationError: COLLATERAL_ROLLBACK: something newer is in the store.
        OSError, WireError: a file or the store cannot be read or written.
    """
    read = [(path, read_bounded(path, MAX_ENDORSEMENT_BYTES)) for path in files]
    found = [(path, _recognised(path, content)) for path, content in read]
    for (_, content), (_, endorsements) in zip(read, found, strict=True):
        store.add(content, endorsements)
    return found


def _recognised(path: Path, content: bytes) -> tuple[Endorsement, ...]:
    try:
        return recognise(content)
    except AttestationError as error:
        if error.reason is not Reason.EVIDENCE_FORMAT:
            raise
        hint = "Give a CRL (DER), Intel's collateral (JSON), certificates, an OCSP response, a RIM or a JWKS."
        raise UserError(f"{path}: no endorsement that Cloister knows", hint) from None


@dataclass(frozen=True, slots=True)
class Source:
    """The host to fetch from: ``name:port``, its CA file (None: the public ones), a CONNECT proxy (empty: none)."""

    coordinator: str
    ca: Path | None
    proxy: str


def fetch_into(store: CollateralStore, source: Source, charter: Path | None) -> Offer:
    """Take from the host what is newer than in ``store`` and signed under the charter's roots, or the vendors'.

    Raises:
        ProtocolError, OSError: the host is out of reach, breaks a bound, or the store cannot be read or written.
    """
    from worker.collateral import fetch_offer
    from worker.grpc_channel import HostAddress

    vendors = tuple(root for roots in VENDOR_ROOTS.values() for root in roots)
    roots = vendors if charter is None else load_charter(charter).document.roots
    ca_pem = None if source.ca is None else read_bounded(source.ca, MAX_CA_BYTES)
    with HostAddress(source.coordinator, ca_pem, source.proxy or None).open() as channel:
        return fetch_offer(channel, store, roots, present())


def status_of(store: CollateralStore, now: datetime, warn_days: int) -> list[Line]:
    """Every endorsement, those that end first at the top.

    Raises:
        OSError, WireError: the store cannot be read.
    """
    lines = [_line(entry.endorsement, now, warn_days) for entry in store.entries()]
    return sorted(lines, key=lambda line: (line.days is None, line.days or 0, line.endorsement.name))


def _line(endorsement: Endorsement, now: datetime, warn_days: int) -> Line:
    days = days_left(endorsement, now)
    standing = Standing.GOOD
    if days is not None and days < warn_days:
        standing = Standing.EXPIRED if days < 0 else Standing.ENDS_SOON
    return Line(endorsement, platform_of(endorsement), days, standing)


def worst(lines: Sequence[Line]) -> Standing:
    """How the store stands as a whole."""
    return max((line.standing for line in lines), key=list(Standing).index, default=Standing.GOOD)


_INTEL = "Intel TDX and SGX"
_BY_KIND = {
    EndorsementKind.OCSP: "NVIDIA GPUs",
    EndorsementKind.RIM: "NVIDIA GPUs",
    EndorsementKind.JWKS: "Google Confidential Space",
}


def platform_of(endorsement: Endorsement) -> str:
    """Which machines need it, in words."""
    name = endorsement.name
    if endorsement.kind is EndorsementKind.TCB_INFO:
        tee, _, fmspc = name.partition(" ")
        return f"Intel {tee}, platforms with FMSPC {fmspc}"
    if endorsement.kind is EndorsementKind.QE_IDENTITY:
        return "Intel TDX" if name.startswith("TD") else "Intel SGX"
    if endorsement.kind in _BY_KIND:
        return _BY_KIND[endorsement.kind]
    if name.startswith("Intel"):
        return _INTEL
    if name.startswith(("ARK-", "SEV-")):
        product = name.split()[0].rpartition("-")[2]
        return "AMD SEV-SNP" if product in ("VCEK", "VLEK") else f"AMD SEV-SNP, {product}"
    return "NVIDIA GPUs" if "NVIDIA" in name else "other"
