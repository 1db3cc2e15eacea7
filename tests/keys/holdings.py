"""A broker's holdings in memory, grants that members sign, and two real sides joined without a wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.world import NOW, World, envelope
from trusted.attestation.result import AttestationResult
from trusted.attestation.roots import Assurance
from trusted.blob import ContentKey
from trusted.channel.federation import Federation
from trusted.documents.grant import GRANT_TYPE, Grant, Holder, VerifiedGrant, commitment, verify_grant
from trusted.documents.schema import Validity
from trusted.errors import ChannelError, KeyReleaseError, ProtocolError, Reason
from trusted.keys.broker import KeyExchange, Standing
from trusted.keys.requester import Asker, GrantedKey, KeyRequester

KEY_ID = b"\x5d" * 32
MEMBER = "site-1"


def grant_of(world: World, content: ContentKey, /, **changes: Any) -> Grant:
    """What ``MEMBER`` grants its own worker, unless a test says otherwise."""
    terms = {
        "member": MEMBER,
        "charter": world.charter.digest,
        "plan": world.plan.digest,
        "role": Holder.WORKER,
        "key": KEY_ID,
        "commitment": commitment(KEY_ID, content.secret),
        "holder": MEMBER,
        "measurements": None,
        "assurance": Assurance.NONE,
        "releases": 2,
        "validity": Validity(NOW - timedelta(hours=1), NOW + timedelta(days=1)),
        "nonce": b"\x01" * 16,
    }
    return Grant(**terms | changes)


def signed_grant(world: World, grant: Grant, *, by: str | None = None) -> bytes:
    """The envelope of ``grant``, signed by its own member or by another."""
    return envelope(grant, GRANT_TYPE, [world.signing[by or grant.member]])


@dataclass
class MemoryHoldings:
    """One key and its grants."""

    federations: list[Federation]
    key: ContentKey = field(default_factory=ContentKey.generate)
    grants: list[Standing] = field(default_factory=list)
    taken: list[AttestationResult] = field(default_factory=list)
    retired: bool = False
    confirmed: int = 0

    def grant(self, world: World, *, revoked: bool = False, **changes: Any) -> VerifiedGrant:
        document = grant_of(world, self.key, **changes)
        verified = verify_grant(signed_grant(world, document), world.charter)
        self.grants.append(Standing(verified, document.releases, revoked))
        return verified

    def federation(self, charter: bytes, plan: bytes, now: datetime) -> Federation:
        for held in self.federations:
            if (held.charter.digest, held.plan.digest) == (charter, plan):
                return held
        raise ChannelError(Reason.WRONG_PLAN, "hello.plan: not held")

    def standings(self, key_id: bytes, now: datetime) -> Sequence[Standing]:
        if key_id != KEY_ID:
            raise KeyReleaseError(Reason.KEY_UNKNOWN, "hello.key: no such key")
        if self.retired:
            raise KeyReleaseError(Reason.KEY_RETIRED, "hello.key: destroyed")
        return self.grants

    def confirm(self, grant: VerifiedGrant, now: datetime) -> ContentKey:
        held = next(held for held in self.grants if held.grant.digest == grant.digest)
        held.require_standing(now)
        self.confirmed += 1
        return self.key

    def take(self, grant: VerifiedGrant, result: AttestationResult, now: datetime) -> ContentKey:
        place = next(place for place, held in enumerate(self.grants) if held.grant.digest == grant.digest)
        held = self.grants[place]
        held.require_usable(now)
        self.grants[place] = Standing(held.grant, held.left - 1, held.revoked)
        self.taken.append(result)
        return self.key


def asker(world: World, *, role: Holder = Holder.WORKER, member: str = MEMBER, **provider: Any) -> Asker:
    """A real TEE of ``role`` with the credential of ``member``."""
    membership = world.membership(member)
    return Asker(role, world.provider(role.value, **provider), membership.credential, membership.worker_key)


def requester(world: World, asking: Asker | None = None, **changes: Any) -> KeyRequester:
    """One that asks for ``KEY_ID`` of ``MEMBER``."""
    wanted: dict[str, Any] = {"key_id": KEY_ID, "member": MEMBER} | changes
    federation = wanted.pop("federation", world.federation)
    return KeyRequester(federation, asking or asker(world), **wanted)


def exchanged(holdings: MemoryHoldings, asking: KeyRequester, now: datetime = NOW) -> GrantedKey:
    """The whole exchange; raises what either side refuses."""
    broker = KeyExchange(holdings, now)
    request = asking.receive(broker.receive(asking.begin(), now), now)
    if request is None:
        raise RuntimeError("a request expected")
    asking.receive(broker.receive(request, now), now)
    return asking.granted


def refused(holdings: MemoryHoldings, asking: KeyRequester, now: datetime = NOW) -> Reason:
    """Why one side refuses; nothing was handed out."""
    before = len(holdings.taken)
    try:
        exchanged(holdings, asking, now)
    except ProtocolError as error:
        if len(holdings.taken) != before:
            raise RuntimeError("a release was counted") from error
        return error.reason
    raise RuntimeError("nobody refused")
