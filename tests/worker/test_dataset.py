"""The data-set contract: what the app gets to see, and what is refused without a word of the data."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted.documents.terms import ColumnRule, ColumnType, Consent, DatasetContract
from trusted.errors import AppError, BlobError, Reason
from trusted.row_commitment import RowCommitment
from trusted.sealed_data import DataHeader, seal_data
from worker import dataset
from worker.contract import Gate
from worker.csv_line import csv_line
from worker.dataset import DatasetCommitment, Source, admit_dataset, admitted, read_table, sealed_header

SECRET, KEY = bytes(range(32)), bytes(range(1, 33))
NOW = datetime(2026, 3, 1, tzinfo=UTC)
CONTRACT = DatasetContract(min_rows=2, columns=("age", "visits"))
GOOD = b"name,visits,age\nAda,3,36\nGrace,5,41\n"
HEADER = DataHeader("hospital-a", bytes(32), NOW)


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / f"{name}.csv").write_bytes(data)
    return folder


def admit(
    source: Path, into: Path, contract: DatasetContract = CONTRACT, secret: bytes = SECRET, key: bytes | None = None
) -> DatasetCommitment:
    into.mkdir(mode=0o700)
    return admit_dataset(Source(source, key), Gate(contract, NOW), into=into, secret=secret)


def refused(source: Path, into: Path, contract: DatasetContract = CONTRACT) -> str:
    with pytest.raises(AppError) as error:
        admit(source, into, contract)
    assert error.value.reason is Reason.DATA_CONTRACT
    assert not any(word in str(error.value) for word in ("Ada", "Grace", "name", "salary"))
    return error.value.detail


def test_only_the_columns_of_the_plan_reach_the_app_in_the_plans_order(tmp_path: Path) -> None:
    admitted = admit(write(tmp_path / "in", a=GOOD), tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").read_bytes() == b"age,visits\n36,3\n41,5\n"
    assert admitted.rows == 2
    assert (tmp_path / "out" / "a.csv").stat().st_mode & 0o777 == 0o400


def test_the_commitment_is_over_the_admitted_rows_by_file_name(tmp_path: Path) -> None:
    found = admit(write(tmp_path / "in", b=b"age,visits\n1,2\n", a=GOOD), tmp_path / "out")
    rows = RowCommitment(CONTRACT.columns, SECRET)
    for row in (["36", "3"], ["41", "5"], ["1", "2"]):
        rows.add(row)
    assert found == DatasetCommitment(rows.digest(), 3)


def test_another_secret_or_value_is_another_commitment_and_what_does_not_enter_is_none(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    first = admit(source, tmp_path / "1").digest
    assert admit(source, tmp_path / "2", secret=bytes(32)).digest != first
    (source / "a.csv").write_bytes(GOOD.replace(b"Ada", b"Adb"))  # a column that the app never sees
    assert admit(source, tmp_path / "3").digest == first
    (source / "a.csv").write_bytes(GOOD.replace(b"36", b"37"))
    assert admit(source, tmp_path / "4").digest != first


def test_rows_without_consent_or_past_their_time_reach_neither_app_nor_commitment(tmp_path: Path) -> None:
    table = b"age,visits,ok,until\n36,3,yes,2026-03-01\n37,3,no,2026-03-01\n38,3,yes,2026-02-28\n41,5,yes,2027-01-01\n"
    contract = DatasetContract(2, CONTRACT.columns, consent=Consent("ok", "yes"), expires="until")
    found = admit(write(tmp_path / "in", a=table), tmp_path / "out", contract)
    assert (tmp_path / "out" / "a.csv").read_bytes() == b"age,visits\n36,3\n41,5\n"
    assert found == admit(write(tmp_path / "in2", a=GOOD), tmp_path / "out2")


def test_a_value_that_breaks_a_rule_is_refused(tmp_path: Path) -> None:
    contract = DatasetContract(2, CONTRACT.columns, (ColumnRule("age", ColumnType.INTEGER, high=40),))
    with pytest.raises(AppError) as error:
        admit(write(tmp_path / "in", a=GOOD), tmp_path / "out", contract)
    assert error.value.reason is Reason.DATA_VALUES
    assert "41" not in str(error.value)


def sealed(path: Path, plaintext: bytes) -> Path:
    path.write_bytes(b"".join(seal_data(HEADER, KEY, [plaintext])))
    return path


def test_a_sealed_file_is_admitted_as_its_table_is(tmp_path: Path) -> None:
    source = write(tmp_path / "in", data=GOOD)
    file = sealed(tmp_path / "rows.sealed", GOOD)
    assert sealed_header(file) == HEADER
    assert admit(file, tmp_path / "1", key=KEY) == admit(source, tmp_path / "2")
    assert (tmp_path / "1" / "data.csv").read_bytes() == (tmp_path / "2" / "data.csv").read_bytes()


def test_what_is_not_sealed_has_no_sealed_header(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    assert sealed_header(source) is sealed_header(source / "a.csv") is sealed_header(tmp_path / "absent") is None


def test_a_sealed_file_that_was_cut_counts_for_nothing(tmp_path: Path) -> None:
    file = sealed(tmp_path / "rows.sealed", GOOD + (b"Eve" * 1000 + b",1,1\n") * 500)
    os.truncate(file, (1 << 20) + 4000)
    with pytest.raises(BlobError) as error:
        admit(file, tmp_path / "out", key=KEY)
    assert error.value.reason is Reason.DATA_SEALED


def test_a_table_is_read_line_by_line_however_many_there_are() -> None:
    given_out, line = 0, b"36," + b"3" * 1020 + b"\n"

    def pieces() -> Iterator[bytes]:
        nonlocal given_out
        yield b"age,visits\n"
        for _ in range(24):
            given_out += 1
            yield line * 1024  # 1 MiB

    ahead = []
    for number, _ in enumerate(admitted(pieces(), Gate(CONTRACT, NOW))):
        ahead.append(given_out - number // 1024)
    assert len(ahead) == 24 * 1024
    assert max(ahead) <= 3  # of 24 MiB, never more than the reader's buffer and what is under way


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('\r\n",'), max_size=6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), max_size=8))
def test_the_copy_that_the_app_reads_has_the_rows_that_were_committed_to(rows: list[tuple[str, str]]) -> None:
    lines = [csv_line(row) for row in (CONTRACT.columns, *rows)]
    assert list(read_table(line.encode() for line in lines)) == [list(CONTRACT.columns), *map(list, rows)]
    for line, row in zip(lines[1:], rows, strict=True):
        if "\r" not in line:
            written = io.StringIO()
            csv.writer(written, lineterminator="\n").writerow(row)
            assert line == written.getvalue()


@pytest.mark.parametrize("text", ["", "a", "a\rb", "\r", '"', "a,b", " a "])
def test_a_row_of_one_field_is_read_as_it_was_written(text: str) -> None:
    assert list(read_table([csv_line(["x"]).encode(), csv_line([text]).encode()])) == [["x"], [text]]


def test_one_file_serves_as_well_as_a_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    assert admit(source / "a.csv", tmp_path / "1") == admit(source, tmp_path / "2")


def test_a_file_that_changes_later_does_not_change_what_the_app_reads(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    admit(source, tmp_path / "out")
    (source / "a.csv").write_bytes(b"age,visits\n0,0\n")
    assert b"36,3" in (tmp_path / "out" / "a.csv").read_bytes()


def test_a_byte_order_mark_quotes_and_crlf_are_read(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfage,visits\r\n"36","3\n4"\r\n41,5\r\n'
    admit(write(tmp_path / "in", a=data), tmp_path / "out")
    assert (tmp_path / "out" / "a.csv").read_bytes() == b'age,visits\n36,"3\n4"\n41,5\n'


@pytest.mark.parametrize(
    "data",
    [
        b"", b"name,visits\nAda,3\nGrace,5\n", b"age,visits,age\n1,2,3\n1,2,3\n", b"age,visits\n1,2\n", b"age,visits\n",
        b"age,visits\n1,2\n3\n", b"age,visits\n1,2\n3,4,5\n", b"age,visits\n1,\xff\n3,4\n", b'age,visits\n1,"2\n3,4\n',
        b"Age,visits\n1,2\n3,4\n", b"age;visits\n1;2\n3;4\n",
    ],
)  # fmt: skip
def test_data_that_breaks_the_contract_is_refused(tmp_path: Path, data: bytes) -> None:
    refused(write(tmp_path / "in", a=data), tmp_path / "out")


def test_exactly_the_minimum_of_rows_is_admitted_and_one_less_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    admit(source, tmp_path / "out")
    assert "min_rows" in refused(source, tmp_path / "out2", DatasetContract(3, CONTRACT.columns))


def test_one_bad_file_among_good_ones_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path / "in", a=GOOD, b=b"salary\n1\n"), tmp_path / "out")


def test_no_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.csv", tmp_path / "out")
    refused(write(tmp_path / "in"), tmp_path / "out2")


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    endless = b"age,visits\n" + b"1" * (dataset.MAX_LINE_BYTES + 1)
    assert "1 MiB" in refused(write(tmp_path / "in", a=endless), tmp_path / "out")


def test_a_file_over_the_size_bound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "MAX_FILE_BYTES", len(GOOD) - 1)
    assert "larger" in refused(write(tmp_path / "in", a=GOOD), tmp_path / "out")


def test_a_used_folder_or_a_short_secret_is_the_callers_error(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    with pytest.raises(ValueError, match="into"):
        admit_dataset(Source(source), Gate(CONTRACT, NOW), into=source, secret=SECRET)
    with pytest.raises(ValueError, match="into"):
        admit_dataset(Source(source), Gate(CONTRACT, NOW), into=tmp_path / "absent", secret=SECRET)
    with pytest.raises(ValueError, match="secret"):
        admit(source, tmp_path / "out", secret=SECRET[:-1])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_whatever_the_bytes_they_are_admitted_or_refused(tmp_path: Path, tail: bytes) -> None:
    folder = tmp_path / hashlib.sha256(tail).hexdigest()
    if folder.exists():
        return
    source = write(folder, a=b"age,visits\n" + tail)
    with contextlib.suppress(AppError):
        assert admit(source, folder / "out").rows >= CONTRACT.min_rows
