"""Making a member's keys and its workers' credentials. Trust zone: the member's own machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from console import keyfiles
from console.documents import owner_of, present
from console.files import read_bounded, refuse_existing, write_file
from trusted.documents import credential
from trusted.documents.charter import Member, VerifiedCharter
from trusted.documents.credential import Credential, VerifiedCredential, verify_credential
from trusted.documents.dsse import Signer, new_envelope, raw_public_key, sign
from trusted.documents.schema import Validity
from trusted.hpke import SealingKey
from trusted.wire import decode_json, encode_json

_MAX_MEMBER_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Naming:
    """A member's id, and its name as others shall read it."""

    id: str
    title: str


def make_member(folder: Path, naming: Naming, passphrase: keyfiles.Passphrase | None, *, force: bool) -> Member:
    """Fresh keys in ``folder``: two private files, and ``member.json`` for the others.

    Raises:
        UserError: a file exists and ``force`` is not set.
        WireError, DocumentError: the id or the name is not allowed in a charter.
    """
    paths = [folder / name for name in (keyfiles.SIGNING_KEY, keyfiles.SEALING_KEY, keyfiles.MEMBER_FILE)]
    refuse_existing(*paths, force=force)
    signing_key, sealing_key = Ed25519PrivateKey.generate(), SealingKey.generate()
    public = Member(naming.id, naming.title, (signing_key.public_key().public_bytes_raw(),), sealing_key.public)
    member = Member.read(public.to_json(), "member")
    keyfiles.write_ed25519(paths[0], signing_key, passphrase, force=force)
    keyfiles.write_sealing_key(paths[1], sealing_key, passphrase, force=force)
    write_file(paths[2], encode_json(member.to_json()), force=force)
    return member


def read_member_file(path: Path) -> Member:
    """The member of a ``member.json``, whose maker may be lying about everything but the form.

    Raises:
        OSError, UserError, WireError, DocumentError: it cannot be read, or is something else.
    """
    return Member.read(decode_json(read_bounded(path, _MAX_MEMBER_BYTES).strip()), "member")


def make_credential(
    folder: Path, charter: VerifiedCharter, signer: Signer, *, valid_days: int, force: bool
) -> VerifiedCredential:
    """A fresh worker key in ``folder``, and the signed word of the signer's member for it.

    Raises:
        DocumentError: the signer is no member of ``charter``.
        UserError: a file exists and ``force`` is not set.
    """
    paths = [folder / name for name in (keyfiles.WORKER_KEY, keyfiles.CREDENTIAL)]
    refuse_existing(*paths, force=force)
    member = owner_of(raw_public_key(signer), charter.document.signing_keys)
    worker_key = Ed25519PrivateKey.generate()
    now = present()
    document = Credential(
        member=member,
        charter=charter.digest,
        worker_key=worker_key.public_key().public_bytes_raw(),
        validity=Validity(now, now + timedelta(days=valid_days)),
    )
    envelope = sign(new_envelope(document.encode(), credential.PAYLOAD_TYPE), signer).encode()
    verified = verify_credential(envelope, charter, now)
    keyfiles.write_ed25519(paths[0], worker_key, None, force=force)
    write_file(paths[1], envelope, force=force)
    return verified
