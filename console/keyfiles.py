"""A member's private keys: PKCS #8 PEM, mode 0600, passphrase where one is given. Trust zone: the member's own machine.

A passphrase comes from a prompt, a file or a file descriptor, never from the command line or the environment, where
every process of the machine could read it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # public, but not in __all__

from console.files import PRIVATE, read_bounded, write_file
from console.output import UserError
from trusted.documents.dsse import Signer
from trusted.hpke import SealingKey

SIGNING_KEY = "signing-key.pem"
SEALING_KEY = "sealing-key.pem"
WORKER_KEY = "worker-key.pem"
MEMBER_FILE = "member.json"
CREDENTIAL = "credential.dsse.json"
_MAX_KEY_BYTES = 1 << 16
_PUBLIC_KEY = re.compile(r"[0-9a-fA-F]{64}")
_MAX_PASSPHRASE_BYTES = 1024
_PEM = re.compile(rb"-----BEGIN [A-Z ]+-----.+?-----END [A-Z ]+-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """A passphrase; it is never shown."""

    value: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse an empty passphrase, which protects nothing."""
        if not self.value:
            raise UserError("the passphrase is empty", "Give one, or leave the passphrase options away.")


def given_passphrase(file: Path | None, descriptor: int | None) -> Passphrase | None:
    """The first line of ``file`` or of ``descriptor``; None when neither is given.

    Raises:
        UserError: both are given, or the passphrase is empty or far too long.
        OSError: it cannot be read.
    """
    if file is not None and descriptor is not None:
        raise UserError("two sources of a passphrase", "Give --passphrase-file or --passphrase-fd, not both.")
    if file is not None:
        return Passphrase(_first_line(read_bounded(file, _MAX_PASSPHRASE_BYTES)))
    if descriptor is not None:
        with os.fdopen(descriptor, "rb", closefd=False) as source:
            return Passphrase(_first_line(source.read(_MAX_PASSPHRASE_BYTES)))
    return None


def ask_passphrase(prompt: str, *, confirm: bool = False) -> Passphrase:
    """A passphrase typed at the terminal, unseen.

    Raises:
        UserError: nobody is there to ask.
    """
    if not sys.stdin.isatty():
        raise UserError("a passphrase is needed and nobody can be asked", "Give --passphrase-file or --passphrase-fd.")
    return Passphrase(typer.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True).encode())


def write_ed25519(path: Path, key: Ed25519PrivateKey, passphrase: Passphrase | None, *, force: bool) -> None:
    """Write an Ed25519 private key as one PEM block, mode 0600."""
    write_file(path, _pem(key, passphrase), mode=PRIVATE, force=force)


def write_sealing_key(path: Path, key: SealingKey, passphrase: Passphrase | None, *, force: bool) -> None:
    """Write both halves of a sealing key as two PEM blocks in one file, ML-KEM-768 first, mode 0600."""
    secret = key.to_bytes()
    mlkem = MLKEM768PrivateKey.from_seed_bytes(secret[:64])
    x25519 = X25519PrivateKey.from_private_bytes(secret[64:])
    write_file(path, _pem(mlkem, passphrase) + _pem(x25519, passphrase), mode=PRIVATE, force=force)


def load_signer(path: Path, passphrase: Passphrase | None) -> Signer:
    """The signer of a key file; whoever has an HSM or a Vault puts another securesystemslib signer in its place.

    Raises:
        UserError: no Ed25519 key, readable by others, or the passphrase is missing or wrong.
        OSError: it cannot be read.
    """
    return CryptoSigner(load_ed25519(path, passphrase))


def load_ed25519(path: Path, passphrase: Passphrase | None) -> Ed25519PrivateKey:
    """The Ed25519 key of a key file.

    Raises:
        UserError, OSError: as :func:`load_signer`.
    """
    match _load(path, passphrase):
        case [Ed25519PrivateKey() as key]:
            return key
    raise UserError(f"{path}: not an Ed25519 private key", "Give the signing-key.pem of `cloister member keygen`.")


def read_public_key(text: str) -> bytes:
    """The Ed25519 public key (32 bytes) that ``text`` spells in hexadecimal, or that is in the PEM file of that name.

    Raises:
        UserError: neither. OSError: the file cannot be read.
    """
    if _PUBLIC_KEY.fullmatch(text):
        return bytes.fromhex(text)
    try:
        key = load_pem_public_key(read_bounded(Path(text), _MAX_KEY_BYTES))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        hint = "Give 64 hexadecimal digits, or a PEM file with an Ed25519 public key."
        raise UserError("--key is no Ed25519 public key", hint)
    return key.public_bytes_raw()


def load_sealing_key(path: Path, passphrase: Passphrase | None) -> SealingKey:
    """The sealing key of a file that :func:`write_sealing_key` wrote.

    Raises:
        UserError: something else, readable by others, or the passphrase is missing or wrong.
        OSError: it cannot be read.
    """
    match _load(path, passphrase):
        case [MLKEM768PrivateKey() as mlkem, X25519PrivateKey() as x25519]:
            return SealingKey.from_bytes(mlkem.private_bytes_raw() + x25519.private_bytes_raw())
    raise UserError(f"{path}: not a sealing key", "Give the sealing-key.pem of `cloister member keygen`.")


def _load(path: Path, passphrase: Passphrase | None) -> list[PrivateKeyTypes]:
    data = read_bounded(path, _MAX_KEY_BYTES)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise UserError(f"{path}: other users may read this private key", f"Run: chmod 600 {path}")
    blocks = _PEM.findall(data)
    if blocks and b"ENCRYPTED" in blocks[0] and passphrase is None:
        passphrase = ask_passphrase(f"Passphrase of {path.name}")
    password = passphrase.value if passphrase is not None and blocks and b"ENCRYPTED" in blocks[0] else None
    try:
        return [load_pem_private_key(block, password) for block in blocks]
    except (ValueError, TypeError):
        hint = "Check the passphrase, and that the file is one that `cloister` wrote."
        raise UserError(f"{path}: the private key does not open", hint) from None


def _pem(key: Ed25519PrivateKey | MLKEM768PrivateKey | X25519PrivateKey, passphrase: Passphrase | None) -> bytes:
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.value)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def _first_line(data: bytes) -> bytes:
    return data.split(b"\n", 1)[0].rstrip(b"\r")
