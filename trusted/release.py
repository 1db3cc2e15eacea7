"""The released model: who may open it, and the proof of where it comes from (docs/protocol.md §6.3).

Trust zone: aggregator TEE, which makes a release, and a recipient's console, which verifies it as a worker would.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted import hpke
from trusted.attestation.composite import EvidenceBundle
from trusted.attestation.result import AttestationResult
from trusted.blob import BlobHeader, BlobKind, ContentKey
from trusted.channel import transcript
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.channel.transcript import AGGREGATOR
from trusted.errors import DocumentError, Reason
from trusted.exchange import AGGREGATOR as AGGREGATOR_SENDER
from trusted.exchange import Exchanged
from trusted.hpke import SealingKey
from trusted.wire import Fields, decode_json, encode_json, pack, sha256, unpack

MAX_RELEASE_BYTES = 1 << 22
_LABEL = "cloister/signed-release/v1"


def release_name(plan: bytes) -> bytes:
    """The blob name (16 bytes) under which the release document of a plan is stored."""
    return sha256(pack("cloister/release-name/v1", plan))[:16]


@dataclass(frozen=True, slots=True)
class Release:
    """What is released, to whom, and after which rounds with which contributions."""

    plan: bytes
    charter: bytes
    rounds: int
    model_sha256: bytes
    blob: bytes
    verify_key: bytes
    boot: bytes
    contributions: tuple[tuple[int, tuple[str, ...]], ...]
    wrapped: Mapping[str, bytes] = field(repr=False)
    card_sha256: bytes | None = None

    def encode(self) -> bytes:
        """The canonical bytes that the aggregator signs and attests."""
        return encode_json(
            {
                "plan": self.plan.hex(),
                "charter": self.charter.hex(),
                "rounds": self.rounds,
                "model_sha256": self.model_sha256.hex(),
                "blob": self.blob.hex(),
                "verify_a": self.verify_key.hex(),
                "boot_a": self.boot.hex(),
                "contributions": [{"round": number, "members": list(names)} for number, names in self.contributions],
                "wrapped": {member: sealed.hex() for member, sealed in self.wrapped.items()},
                **({} if self.card_sha256 is None else {"card_sha256": self.card_sha256.hex()}),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Release:
        """The release that ``data`` spells; nothing of it is verified yet."""
        with Fields(decode_json(data, max_bytes=MAX_RELEASE_BYTES), "release") as fields:
            wrapped = Fields(fields.mapping("wrapped"), "release.wrapped")
            return cls(
                plan=fields.octets("plan", 32),
                charter=fields.octets("charter", 32),
                rounds=fields.integer("rounds", low=1, high=1 << 31),
                model_sha256=fields.octets("model_sha256", 32),
                blob=fields.octets("blob", 16),
                verify_key=fields.octets("verify_a", 32),
                boot=fields.octets("boot_a", 16),
                contributions=tuple(_contribution(item) for item in fields.items("contributions", max_items=1 << 16)),
                wrapped={member: wrapped.octets(member) for member in wrapped.names()},
                card_sha256=fields.octets("card_sha256", 32) if fields.has("card_sha256") else None,
            )

    def header(self, federation: Federation) -> BlobHeader:
        """The header of the sealed model that this release announces."""
        return Exchanged.of(federation.plan).header(BlobKind.RELEASE, self.rounds, AGGREGATOR_SENDER)


def _contribution(item: Any) -> tuple[int, tuple[str, ...]]:
    with Fields(item, "release.contributions") as fields:
        number = fields.integer("round", low=1, high=1 << 31)
        members = fields.items("members")
    if not all(isinstance(member, str) for member in members):
        raise DocumentError(Reason.WRONG_TYPE, "release.contributions.members: member ids expected")
    return number, tuple(members)


def wrap_keys(federation: Federation, key: ContentKey, model_sha256: bytes) -> dict[str, bytes]:
    """The content key, sealed to every recipient that the plan names."""
    charter, plan = federation.charter.document, federation.plan
    return {
        member: hpke.seal(
            charter.member(member).sealing_key, key.secret, b"release", plan.digest, model_sha256, member.encode()
        )
        for member in plan.document.recipients
    }


def sign_release(release: Release, identity: Identity) -> bytes:
    """The release as it is stored: the document, the aggregator's signature, and fresh evidence over both."""
    document = release.encode()
    signature = identity.signing_key.sign(pack("cloister/release/v1", document))
    evidence = EvidenceBundle.collect(identity.provider, transcript.release(sha256(document)))
    return pack(_LABEL, document, signature, evidence.encode())


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release that an aggregator made which the charter admits, for exactly this plan."""

    release: Release
    aggregator: AttestationResult

    def open_key(self, member: str, key: SealingKey) -> ContentKey:
        """The content key of the released model, for a recipient.

        Raises:
            DocumentError: ``member`` is no recipient. ChannelError: ``key`` is not that member's sealing key.
        """
        if member not in self.release.wrapped:
            raise DocumentError(Reason.UNKNOWN_MEMBER, "release: this member is not among the plan's recipients")
        purpose = (b"release", self.release.plan, self.release.model_sha256, member.encode())
        return ContentKey(key.open(self.release.wrapped[member], *purpose))


def verify_release(stored: bytes, federation: Federation, now: datetime) -> VerifiedRelease:
    """The release in ``stored``, which a host served and may have made up.

    1. It is for this charter and plan. 2. Its key signed it. 3. Evidence of an aggregator that the charter admits is
    bound to it. 4. It names a model card if the plan has the model judged, and only then. The header of the sealed
    model follows from plan and rounds, so a recipient expects it exactly.

    Raises:
        ProtocolError: the first of these that does not hold.
    """
    document, signature, evidence = unpack(stored, _LABEL, 3, max_bytes=MAX_RELEASE_BYTES)
    release = Release.decode(document)
    federation.require_same(release.charter, release.plan)
    try:
        Ed25519PublicKey.from_public_bytes(release.verify_key).verify(signature, pack("cloister/release/v1", document))
    except (InvalidSignature, ValueError):
        raise DocumentError(Reason.DOCUMENT_SIGNATURE, "release: not signed by the key it names") from None
    bundle = EvidenceBundle.decode(evidence)
    result = federation.appraise(AGGREGATOR, bundle, transcript.release(sha256(document)), now)
    if (release.card_sha256 is None) != (federation.plan.document.evaluation is None):
        raise DocumentError(Reason.MODEL_CARD, "release: a model card expected where the plan has an evaluation")
    return VerifiedRelease(release, result)
