"""Whoever was handed a key asks whether its grant still stands (docs/protocol.md §15.3).

Trust zone: every TEE that asks, and the broker. The exchange is that of a release, begun with ``renew``: evidence and
the member's word are shown anew. What comes back is no key and counts as no release, but a proof of knowledge of the
key over this very exchange: a host between cannot make one, keep one for later, or use that of another runtime. So a
broker needs no key of its own to be believed.
"""

from __future__ import annotations

import hmac
from datetime import datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trusted.blob import ContentKey
from trusted.channel.federation import Federation
from trusted.documents.grant import VerifiedGrant
from trusted.errors import KeyReleaseError, Reason
from trusted.keys.requester import Asker, GrantedKey, KeyRequester
from trusted.keys.states import Kind, State
from trusted.wire import pack, sha256, unpack


def renewal_key(key: ContentKey, grant: VerifiedGrant) -> bytes:
    """What proves knowledge of ``key`` under ``grant``, 32 secret bytes; it opens nothing."""
    info = pack("cloister/key-renewal/v1", grant.document.key, grant.digest)
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key.secret)


def confirmation(secret: bytes, frames: tuple[bytes, ...]) -> bytes:
    """The proof over the three frames of an exchange, 32 bytes."""
    return hmac.digest(secret, pack("cloister/key-confirmation/v1", *(sha256(frame) for frame in frames)), "sha256")


class KeyRenewer(KeyRequester):
    """One question whether ``grant`` still stands. After ``DONE`` it did, as the broker answered."""

    def __init__(self, federation: Federation, asker: Asker, *, grant: VerifiedGrant, secret: bytes) -> None:
        """``secret`` is :func:`renewal_key` of the key that came under ``grant``."""
        super().__init__(federation, asker, key_id=grant.document.key, member=grant.document.member)
        self._renewed = grant
        self._secret = secret

    def begin(self) -> bytes:
        """Renew: which grant, of which key, and for what."""
        if self.state is not State.START:
            raise RuntimeError("a request begins once")
        self.state = State.AWAIT_CHALLENGE
        return self._note(pack(Kind.RENEW.value, self._nonce, *self._wanted.fields, self._renewed.digest))

    def _take(self, frame: bytes, now: datetime) -> GrantedKey | None:
        (proof,) = unpack(frame, Kind.RENEWED.value, 1)
        if not hmac.compare_digest(proof, confirmation(self._secret, self._frames)):
            raise KeyReleaseError(Reason.KEY_COMMITMENT, "renewed: not by who holds the key that was granted")
        self._renewed.document.require_open(now)
        return None
