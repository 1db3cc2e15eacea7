"""Collateral that a host offers: what is newer goes into the store, all else changes nothing. Trust zone: every TEE.

The host may offer what it likes, in any number. Each file stands for itself: one that is damaged, forged or older is
refused, and the others are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trusted.attestation.collateral import MAX_ENDORSEMENT_BYTES, Endorsement
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify.endorsement import certificates_in, verify_endorsement
from trusted.errors import ProtocolError, Reason, WireError
from trusted.evidence.collateral_store import CollateralStore

MAX_OFFERED_FILES = 256
MAX_OFFERED_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Offer:
    """What became of an offer: what is new in the store, and why the rest is not."""

    taken: tuple[Endorsement, ...]
    refused: tuple[ProtocolError, ...]


def held_files(store: CollateralStore) -> frozenset[bytes]:
    """SHA-256 of every file that ``store`` names, so that nobody has to send it again.

    Raises:
        WireError, OSError: the store cannot be read.
    """
    return frozenset(bytes.fromhex(entry.file) for entry in store.entries())


def take_offer(store: CollateralStore, files: Sequence[bytes], roots: Sequence[TrustRoot], now: datetime) -> Offer:
    """Keep in ``store`` what ``files`` say that is signed under ``roots`` and no older than what is there.

    Raises:
        WireError: TOO_LARGE: more than 256 files or 16 MiB, or the store cannot be read. Nothing is taken.
        OSError: the store cannot be written.
    """
    if len(files) > MAX_OFFERED_FILES or sum(len(content) for content in files) > MAX_OFFERED_BYTES:
        raise WireError(Reason.TOO_LARGE, f"offer: at most {MAX_OFFERED_FILES} files, {MAX_OFFERED_BYTES} bytes")
    store.entries()  # a store that is damaged is its operator's to mend, not an offer's fault
    small = [content for content in files if len(content) <= MAX_ENDORSEMENT_BYTES]
    certificates = {content: certificates_in(content) for content in small}
    authorities = [der for found in certificates.values() for der in found]
    taken: list[Endorsement] = []
    refused: list[ProtocolError] = []
    for content in files:
        if certificates.get(content):
            continue  # they only help to verify, and are kept nowhere
        try:
            said = verify_endorsement(content, roots, authorities, now)
            store.add(content, said)
            taken.extend(said)
        except ProtocolError as error:
            refused.append(error)
    return Offer(tuple(taken), tuple(refused))
