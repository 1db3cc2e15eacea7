"""Releasing the final model to whom the plan names. Trust zone: aggregator TEE."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes

from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.rounds import Round
from trusted.blob import ContentKey, seal_vector
from trusted.card import card_name, sign_card
from trusted.channel.federation import Federation
from trusted.channel.session import Identity
from trusted.documents.plan import initial_digest
from trusted.encoding import Vector
from trusted.release import Release, release_name, sign_release, wrap_keys


@dataclass(slots=True)
class History:
    """The committed rounds of a run and whose contributions they hold."""

    contributions: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """How many rounds were committed."""
        return len(self.contributions)

    @property
    def numbers(self) -> frozenset[int]:
        """The numbers of the committed rounds."""
        return frozenset(number for number, _ in self.contributions)

    def before(self, number: int) -> int:
        """How many rounds were committed before the one of this ``number``."""
        return sum(1 for earlier, _ in self.contributions if earlier < number)

    def committed(self, ended: Round) -> None:
        """Note a committed round."""
        self.contributions.append((ended.number, tuple(sorted(ended.counted))))


def seal_release(
    federation: Federation, identity: Identity, store: HostStore, *, model: Vector, history: History
) -> Release:
    """Seal ``model`` once, store it, and wrap its key to each recipient: nobody is told before :func:`publish`.

    ``model`` is float32[elements] of the whole layout.
    """
    plan = federation.plan.document
    key, blob = ContentKey.generate(), token_bytes(BLOB_NAME_BYTES)
    digest = initial_digest(plan.layout, model.data.cast("B"))
    release = Release(
        plan=federation.plan.digest,
        charter=federation.charter.digest,
        rounds=history.rounds,
        model_sha256=digest,
        blob=blob,
        verify_key=identity.verify_key,
        boot=identity.boot,
        contributions=tuple(history.contributions),
        wrapped=wrap_keys(federation, key, digest),
    )
    header = release.header(federation)
    store.write(blob, header.sealed_bytes, seal_vector(header, model, key=key, signing_key=identity.signing_key))
    return release


def publish(release: Release, identity: Identity, store: HostStore, card: bytes | None = None) -> None:
    """Store the release where recipients look for it, with evidence of where it comes from, and its card before it.

    One that an earlier aggregator of the run published, and did not live to tell of, makes room: its model is the same.
    The host discards in its own time, and would discard what is written meanwhile: nothing is before the room is there.

    Raises:
        ConnectionError: it is not there yet; this is to be done again.
    """
    if card is not None:
        _put(store, card_name(release.plan), sign_card(card, identity))
    _put(store, release_name(release.plan), sign_release(release, identity))


def _put(store: HostStore, name: bytes, stored: bytes) -> None:
    if len(store.read(name, 0, 1)):
        store.discard(name)
        if len(store.read(name, 0, 1)):
            raise ConnectionError("the host still holds an earlier release")
    store.write(name, len(stored), [stored])


def withdraw(release: Release, store: HostStore) -> None:
    """Take back a release that nobody was told of."""
    store.discard(card_name(release.plan))
    store.discard(release_name(release.plan))
    store.discard(release.blob)
