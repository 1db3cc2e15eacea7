"""A proof that one row of a sealed data set was admitted. Trust zone: the data steward's machine."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from console.output import UserError
from console.tables import tables
from trusted.documents.terms import DatasetContract
from trusted.row_commitment import RowCommitment, RowProof, secret_of
from worker.contract import Gate


def prove_row(
    path: Path, key: bytes, contract: DatasetContract, plan: bytes, *, row: int, now: datetime
) -> tuple[RowProof, bytes]:
    """The proof of row ``row`` (from 1) of a sealed file, and the commitment (32 bytes) under which it holds.

    It keeps the hashes of all rows, 64 bytes each.

    Raises:
        UserError: there is no such row, or it did not enter at the time ``now``. AppError, BlobError: the data does
            not hold, or does not open.
    """
    gate = Gate(contract, now)
    made = RowCommitment(contract.columns, secret_of(key, plan), keep=True)
    found: tuple[int, list[str]] | None = None
    read = 0
    for table in tables(path, contract.rule_of, key):
        gate.begin(table.header)
        for fields in table.rows:
            read += 1
            entered = gate.take(fields)
            if entered is None:
                continue
            if read == row:
                found = made.rows, entered
            made.add(entered)
    gate.close()
    if found is None:
        why = "it did not enter at that time" if row <= read else f"there are {read}"
        raise UserError(f"no row {row} to prove: {why}", "Count the sealed file's rows from 1, below the header.")
    return made.prove(*found), made.digest()
