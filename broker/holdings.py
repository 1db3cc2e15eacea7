"""The store, unlocked: what `trusted.keys` asks of a broker. Trust zone: the member's own machine or TEE."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from broker.key_files import KeyFiles
from broker.records import KeptGrant
from broker.store import KeyStore
from trusted.attestation.collateral import FloorKeeper
from trusted.attestation.result import AttestationResult
from trusted.blob import ContentKey
from trusted.channel.federation import Federation
from trusted.documents.charter import VerifiedCharter, verify_charter
from trusted.documents.grant import VerifiedGrant, commitment, verify_grant
from trusted.documents.plan import VerifiedPlan, verify_plan
from trusted.errors import ChannelError, KeyReleaseError, ProtocolError, Reason
from trusted.hpke import SealingKey
from trusted.keys.broker import Standing
from trusted.wire import encode_json, sha256


class StoreHoldings:
    """Implements :class:`trusted.keys.broker.Holdings` over a store and its private key. Thread-safe."""

    def __init__(self, store: KeyStore, private: SealingKey) -> None:
        """Unlock ``store``.

        Raises:
            KeyReleaseError: KEY_STORE: ``private`` is another store's key.
        """
        if private.public != store.public:
            raise KeyReleaseError(Reason.KEY_STORE, "store-key: the key of another store")
        self._store = store
        self._private = private
        self._floors = FloorKeeper()
        self._charters: dict[bytes, VerifiedCharter] = {}
        self._plans: dict[bytes, VerifiedPlan] = {}

    def federation(self, charter: bytes, plan: bytes, now: datetime) -> Federation:
        """The documents of these digests, verified; they hold now, or are refused.

        Raises:
            ChannelError: WRONG_CHARTER, WRONG_PLAN. DocumentError: they do not hold.
        """
        rules = self._charter(charter, now)
        if plan not in self._plans:
            envelope = self._store.document(plan)
            if envelope is None:
                raise ChannelError(Reason.WRONG_PLAN, "hello.plan: no grant came with this plan")
            self._plans[plan] = verify_plan(envelope, rules, now)
        return Federation(rules, self._plans[plan], self._floors)

    def standings(self, key_id: bytes, now: datetime) -> Sequence[Standing]:
        """Every grant of a key, the latest last. One whose charter no longer holds stands for nothing.

        Raises:
            KeyReleaseError: KEY_UNKNOWN, KEY_RETIRED. DocumentError: no charter of any grant of it holds now.
        """
        self._store.key(key_id)
        standings: list[Standing] = []
        refused: ProtocolError | None = None
        for kept in self._store.grants():
            if kept.key == key_id:
                try:
                    standings.append(self._standing(kept, now))
                except ProtocolError as error:
                    refused = error
        if refused is not None and not standings:
            raise refused
        return standings

    def take(self, grant: VerifiedGrant, result: AttestationResult, now: datetime) -> ContentKey:
        """The key, once one release fewer is left and the log holds this one, both on the disk.

        Raises:
            KeyReleaseError: it was revoked, retired or used up meanwhile; nothing was counted. Or KEY_STORE.
        """
        document = grant.document
        key = open_key(self._store.files, document.key, document.commitment, self._private)
        digest = sha256(encode_json(result.to_json()))
        self._store.count_release(grant.digest, digest, result.measurement, now)
        return key

    def confirm(self, grant: VerifiedGrant, now: datetime) -> ContentKey:
        """The key, while the grant stands by what is on the disk now; nothing is counted.

        Raises:
            KeyReleaseError: it was revoked or retired, or its time is over. Or KEY_STORE.
        """
        document = grant.document
        for standing in self.standings(document.key, now):
            if standing.grant.digest == grant.digest:
                standing.require_standing(now)
                return open_key(self._store.files, document.key, document.commitment, self._private)
        raise KeyReleaseError(Reason.NOT_GRANTED, "grant: not in this store")

    def _standing(self, kept: KeptGrant, now: datetime) -> Standing:
        grant = verify_grant(kept.envelope, self._charter(kept.charter, now))
        return Standing(grant, kept.remaining, kept.revoked)

    def _charter(self, digest: bytes, now: datetime) -> VerifiedCharter:
        if digest not in self._charters:
            envelope = self._store.document(digest)
            if envelope is None:
                raise ChannelError(Reason.WRONG_CHARTER, "hello.charter: no grant came with this charter")
            self._charters[digest] = verify_charter(envelope, now)
        charter = self._charters[digest]
        charter.document.validity.check(now, "charter")
        return charter


def open_key(files: KeyFiles, key_id: bytes, promised: bytes, private: SealingKey) -> ContentKey:
    """The content key of that id, if it is the one that was promised.

    Raises:
        KeyReleaseError: KEY_STORE, KEY_COMMITMENT.
    """
    key = files.open(key_id, private)
    if commitment(key_id, key.secret) != promised:
        raise KeyReleaseError(Reason.KEY_COMMITMENT, "store.keys: not the key that was granted")
    return key
