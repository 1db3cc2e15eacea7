"""Sealing a site's data set, and opening it again at home. Trust zone: the data steward's machine.

Plaintext passes through memory only: the file that is being written holds sealed segments from its first byte on, and
takes its name when the last one is in it and its key is in the member's key store.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from broker.holdings import open_key
from broker.records import KeyKind
from broker.store import STORE_KEY, KeyStore
from console import keyfiles
from console.documents import present
from console.files import PRIVATE, refuse_existing
from console.keyfiles import Passphrase
from console.output import UserError
from console.tables import Table, tables
from trusted.blob import ContentKey
from trusted.documents.terms import ColumnRule, DatasetContract
from trusted.sealed_data import KEY_ID_BYTES, DataHeader, open_data, seal_data
from worker.contract import Gate
from worker.csv_line import csv_line
from worker.dataset import sealed_header

_ROWS_AT_ONCE = 4096


@dataclass(slots=True)
class Sealed:
    """What was sealed, and what was left out because it may not enter any more."""

    header: DataHeader
    columns: tuple[str, ...] = ()
    rows: int = 0
    without_consent: int = 0
    expired: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Steward:
    """A member's key store, and what unlocks it where a key is to be taken out."""

    store: Path
    passphrase: Passphrase | None = field(default=None, repr=False)

    def add(self, header: DataHeader, key: ContentKey, description: str) -> None:
        """Keep the key of a sealed file.

        Raises:
            UserError: the store is another member's. KeyReleaseError, OSError: it cannot be kept.
        """
        with KeyStore.open(self.store) as store:
            if store.member != header.member:
                hint = f"Give --member {store.member}, or the key store of {header.member}."
                raise UserError(f"{self.store}: the key store of {store.member}, not of {header.member}", hint)
            store.add(header.key_id, key, KeyKind.DATASET, description, present())

    def key(self, header: DataHeader) -> bytes:
        """The key of a sealed file, 32 bytes.

        Raises:
            KeyReleaseError: it is not in this store, or was retired. UserError: the store is not unlocked so.
        """
        private = keyfiles.load_sealing_key(self.store / STORE_KEY, self.passphrase)
        with KeyStore.open(self.store) as store:
            return open_key(store.files, header.key_id, store.key(header.key_id).commitment, private).secret


def seal_source(
    source: Path, out: Path, *, member: str, steward: Steward, contract: DatasetContract | None, force: bool
) -> Sealed:
    """Seal ``source`` as ``out``, its key into the steward's store; with a ``contract``, only what its plan needs.

    Rows that the contract does not let in are left out; one that breaks a rule stops everything, as the worker would.

    Raises:
        UserError: the source has no form that can be sealed, or ``out`` exists. AppError: it breaks the contract.
        KeyReleaseError, OSError: key or file cannot be kept. Then there is no ``out``.
    """
    refuse_existing(out, force=force)
    sealed = Sealed(DataHeader(member, secrets.token_bytes(KEY_ID_BYTES), present()))
    key = ContentKey.generate()
    gate = None if contract is None else Gate(contract, present())
    rules: dict[str, ColumnRule] = {} if contract is None else dict(contract.rule_of)
    with _written_whole(out) as file:
        for part in seal_data(sealed.header, key.secret, _csv(_rows(tables(source, rules), gate, sealed))):
            sealed.size_bytes += file.write(part)
        if gate is not None:
            gate.close()
            sealed.without_consent, sealed.expired = gate.without_consent, gate.expired
        elif not sealed.rows:
            raise UserError(f"{source}: no rows", "Give a file with a header and at least one row.")
        file.flush()
        os.fsync(file.fileno())
        steward.add(sealed.header, key, out.name)  # before the file has its name: none is without its key
    return sealed


def open_sealed(path: Path, out: Path, *, steward: Steward, force: bool) -> int:
    """Write the table of the sealed file ``path`` to ``out`` in clear, mode 0600; its size in bytes.

    Raises:
        UserError: not a sealed file, or ``out`` exists. BlobError, KeyReleaseError: it does not open. No ``out`` then.
    """
    refuse_existing(out, force=force)
    header, size_bytes = require_sealed(path), 0
    key = steward.key(header)
    with path.open("rb") as file, _written_whole(out) as plain:
        for piece in open_data(DataHeader.read(file), key, file):
            size_bytes += plain.write(piece)
    return size_bytes


def require_sealed(path: Path) -> DataHeader:
    """The header of the sealed file ``path``.

    Raises:
        UserError: it is none. BlobError, WireError: its header does not hold.
    """
    header = sealed_header(path)
    if header is None:
        raise UserError(f"{path}: not a sealed data set", "Give a file that `cloister data seal` made.")
    return header


def _rows(found: Iterable[Table], gate: Gate | None, sealed: Sealed) -> Iterator[list[str]]:
    """Header and rows of all tables as one: with a contract its columns, else those of the first table."""
    wanted = () if gate is None else gate.contract.needed
    for table in found:
        columns = wanted or tuple(table.header)
        if gate is not None:
            gate.begin(table.header)
        elif not columns or len(set(columns)) != len(columns) or sorted(columns) != sorted(table.header):
            raise UserError(
                f"{table.name}: another set of columns than the first table, or a name twice", _SAME_COLUMNS
            )
        if not sealed.columns:
            sealed.columns = wanted = columns
            yield list(columns)
        yield from _taken(table, gate, columns, sealed)


_SAME_COLUMNS = "Give each file the same header, or --plan, which says which columns are needed."


def _taken(table: Table, gate: Gate | None, columns: Sequence[str], sealed: Sealed) -> Iterator[list[str]]:
    places = [table.header.index(column) for column in columns]
    for row in table.rows:
        if gate is not None:
            if gate.take(row) is None:
                continue
        elif len(row) != len(table.header):
            raise UserError(f"{table.name}: a row has more or fewer fields than the header", "Check the file's commas.")
        sealed.rows += 1
        yield [row[place] for place in places]


def _csv(rows: Iterable[Sequence[str]]) -> Iterator[bytes]:
    """The canonical CSV of ``rows`` in UTF-8, some rows at a time."""
    lines: list[str] = []
    for row in rows:
        lines.append(csv_line(row))
        if len(lines) == _ROWS_AT_ONCE:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()


@contextmanager
def _written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file beside ``path`` that takes its place when the block ends, and is gone when it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
