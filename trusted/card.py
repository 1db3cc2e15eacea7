"""The model card: what a run says of its model in public, signed by the aggregator (docs/evaluation.md).

Trust zone: aggregator TEE, which makes it, and everybody's console. It holds what the plan discloses and nothing else:
the host stores it in clear, under a name that follows from the plan. The release names its digest, and with that the
evidence of the aggregator that made it; so does the ``released`` leaf that the members' workers witness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from trusted.channel.session import Identity
from trusted.errors import DocumentError, Reason
from trusted.release import Release
from trusted.wire import decode_json, encode_json, pack, sha256, unpack

MAX_CARD_BYTES = 1 << 22  # a thousand sites, each with its own figures, and all columns of a plan
VERSION = 1
_LABEL = "cloister/signed-model-card/v1"


def card_name(plan: bytes) -> bytes:
    """The blob name (16 bytes) under which the model card of a plan is stored."""
    return sha256(pack("cloister/model-card-name/v1", plan))[:16]


def encode_card(content: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a card.

    Raises:
        DocumentError: TOO_LARGE: more than 4 MiB.
    """
    document = encode_json({"version": VERSION, **content})
    if len(document) > MAX_CARD_BYTES:
        raise DocumentError(Reason.TOO_LARGE, f"model card: more than {MAX_CARD_BYTES} bytes")
    return document


def sign_card(document: bytes, identity: Identity) -> bytes:
    """The card as it is stored: the document, and the aggregator's signature."""
    return pack(_LABEL, document, identity.signing_key.sign(pack("cloister/model-card/v1", document)))


@dataclass(frozen=True, slots=True)
class VerifiedCard:
    """A card that the aggregator of a verified release made, of the model in that release."""

    document: bytes = field(repr=False)
    content: Mapping[str, Any] = field(repr=False)

    @property
    def sha256(self) -> bytes:
        """By what release and log name it."""
        return sha256(self.document)


def verify_card(stored: bytes, release: Release) -> VerifiedCard:
    """The card in ``stored``, which a host served and may have made up, beside the release, which is verified.

    1. The release names a card, and it is this one. 2. The key of the release signed it. 3. It is of the same plan,
    charter, rounds and model.

    Raises:
        DocumentError: MODEL_CARD, DOCUMENT_SIGNATURE. WireError: no card at all.
    """
    document, signature = unpack(stored, _LABEL, 2, max_bytes=MAX_CARD_BYTES + 4096)
    if release.card_sha256 is None or sha256(document) != release.card_sha256:
        raise DocumentError(Reason.MODEL_CARD, "model card: not the one that the release names")
    try:
        key = Ed25519PublicKey.from_public_bytes(release.verify_key)
        key.verify(signature, pack("cloister/model-card/v1", document))
    except (InvalidSignature, ValueError):
        raise DocumentError(Reason.DOCUMENT_SIGNATURE, "model card: not signed by the key of the release") from None
    content = decode_json(document, max_bytes=MAX_CARD_BYTES)
    expected = {
        "version": VERSION,
        "plan": release.plan.hex(),
        "charter": release.charter.hex(),
        "rounds": release.rounds,
        "model_sha256": release.model_sha256.hex(),
    }
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in expected.items()):
        raise DocumentError(Reason.MODEL_CARD, "model card: of another plan, charter or model than the release")
    return VerifiedCard(document, content)
