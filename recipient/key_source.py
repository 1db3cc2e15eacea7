"""Where the runtime's content key comes from: a member's broker, after attestation. Trust zone: recipient TEE."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from trusted.channel.federation import Federation
from trusted.documents.grant import VerifiedGrant
from trusted.keys.renewal import KeyRenewer, renewal_key
from trusted.keys.requester import Asker, GrantedKey, KeyRequester
from worker.key_client import BrokerAddress, carry, fetch_key


@dataclass(frozen=True, slots=True)
class HeldGrant:
    """What is kept of a released key: its grant, and what proves a renewal. The key itself is not."""

    grant: VerifiedGrant
    secret: bytes = field(repr=False)

    @classmethod
    def of(cls, granted: GrantedKey) -> HeldGrant:
        """What is kept of ``granted``."""
        return cls(granted.grant, renewal_key(granted.key, granted.grant))


class KeySource(Protocol):
    """What hands out the key of one model: :class:`BrokerKeys`."""

    def obtain(self) -> GrantedKey:
        """The key. It costs one release. Raises ProtocolError."""

    def renew(self, held: HeldGrant) -> None:
        """Afterwards the grant still stood. Raises ProtocolError."""


@dataclass(frozen=True, slots=True)
class BrokerKeys:
    """The broker of one member, asked for one key.

    Attributes:
        federation: charter and plan, which the broker must know.
        asker: this runtime, and its member's word for it.
        key_id: of the key, 32 bytes.
        grantor: the member whose grant counts.
        broker: where it is.
    """

    federation: Federation
    asker: Asker
    key_id: bytes
    grantor: str
    broker: BrokerAddress

    def obtain(self) -> GrantedKey:
        """The key; a broker that is away or busy is asked again for a minute.

        Raises:
            ProtocolError: the broker refuses, is out of reach, or answered what its member did not sign.
        """
        return fetch_key(self.broker, self._ask)

    def renew(self, held: HeldGrant) -> None:
        """The grant still stands, by who knows the key.

        Raises:
            ProtocolError: as :meth:`obtain`.
        """
        carry(self.broker, KeyRenewer(self.federation, self.asker, grant=held.grant, secret=held.secret))

    def _ask(self) -> KeyRequester:
        return KeyRequester(self.federation, self.asker, key_id=self.key_id, member=self.grantor)
