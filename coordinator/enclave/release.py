"""Releasing the final model to whom the plan names. Trust zone: aggregator TEE."""

from __future__ import annotations

from dataclasses import dataclass, field
from secrets import token_bytes

from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.rounds import Round
from trusted.blob import ContentKey, seal_vector
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

    def committed(self, ended: Round) -> None:
        """Note a committed round."""
        self.contributions.append((ended.number, tuple(sorted(ended.counted))))


def release_model(
    federation: Federation, identity: Identity, store: HostStore, *, model: Vector, history: History
) -> None:
    """Seal ``model`` once, wrap its key to each recipient, and store both with evidence of where they come from.

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
    stored = sign_release(release, identity)
    store.write(release_name(federation.plan.digest), len(stored), [stored])
