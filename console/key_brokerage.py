"""A member's key store and its broker, from the command line. Trust zone: the member's own machine."""

from __future__ import annotations

from pathlib import Path

from broker.records import KeptKey, KeyKind
from broker.store import STORE_KEY, KeyStore
from console import keyfiles
from console.documents import present
from console.opening import fetch_release
from console.ordering import Desk
from console.output import UserError
from trusted.documents.schema import member_id
from trusted.hpke import SealingKey
from trusted.keys.binding import model_key_id


def make_store(folder: Path, member: str, passphrase: keyfiles.Passphrase | None) -> None:
    """A new, empty store of ``member`` in ``folder``, and the private key that unlocks it.

    Raises:
        UserError: there is one already. DocumentError: ``member`` is no id.
    """
    member_id(member, "--member")
    if any((folder / name).exists() for name in (STORE_KEY, "store.db")):
        raise UserError(f"{folder}: there is a key store already", "It is never replaced. Give another folder.")
    private = SealingKey.generate()
    KeyStore.create(folder, member=member, public=private.public).close()
    keyfiles.write_sealing_key(folder / STORE_KEY, private, passphrase, force=False)


def import_model_key(store: KeyStore, desk: Desk, key: SealingKey) -> KeptKey:
    """Put the key of the model that the plan's run released into ``store``; ``key`` is its member's sealing key.

    Raises:
        UserError: nothing has been released yet. ProtocolError: what the host serves does not hold, or the member is no
            recipient.
    """
    verified = fetch_release(desk)
    key_id = model_key_id(verified.release)
    described = f"the model of {desk.plan.document.name}, after {verified.release.rounds} rounds"
    store.add(key_id, verified.open_key(store.member, key), KeyKind.MODEL, described, present())
    return store.key(key_id)
