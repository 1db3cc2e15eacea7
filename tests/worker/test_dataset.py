"""The data-set contract: what the app gets to see, and what is refused without a word of the data."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trusted.documents.terms import DatasetContract
from trusted.errors import AppError, Reason
from trusted.wire import length_prefixed
from worker import dataset
from worker.dataset import admit_dataset, commit

SALT = bytes(range(16))
CONTRACT = DatasetContract(min_rows=2, columns=("age", "visits"))
GOOD = b"name,visits,age\nAda,3,36\nGrace,5,41\n"


def write(folder: Path, **files: bytes) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / f"{name}.csv").write_bytes(data)
    return folder


def refused(source: Path, into: Path, contract: DatasetContract = CONTRACT) -> str:
    with pytest.raises(AppError) as error:
        admit_dataset(source, contract, into=into, salt=SALT)
    assert error.value.reason is Reason.DATA_CONTRACT
    assert not any(word in str(error.value) for word in ("Ada", "Grace", "name", "salary"))
    return error.value.detail


def test_only_the_columns_of_the_plan_reach_the_app_in_the_plans_order(tmp_path: Path) -> None:
    admitted = admit_dataset(write(tmp_path / "in", a=GOOD), CONTRACT, into=tmp_path / "out", salt=SALT)
    assert (tmp_path / "out" / "a.csv").read_bytes() == b"age,visits\n36,3\n41,5\n"
    assert admitted.rows == 2
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_the_commitment_is_the_record_of_salt_and_file_digests_by_name(tmp_path: Path) -> None:
    source = write(tmp_path / "in", b=b"age,visits\n1,2\n", a=GOOD)
    admitted = admit_dataset(source, CONTRACT, into=tmp_path / "out", salt=SALT)
    digests = [hashlib.sha256((source / name).read_bytes()).digest() for name in ("a.csv", "b.csv")]
    record = length_prefixed(b"cloister/dataset/v1", SALT, b"".join(digests))
    assert admitted.digest == hashlib.sha256(record).digest() == commit(digests, SALT)
    assert admitted.rows == 3


def test_another_salt_byte_or_order_is_another_commitment(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    first = admit_dataset(source, CONTRACT, into=tmp_path / "1", salt=SALT).digest
    assert admit_dataset(source, CONTRACT, into=tmp_path / "2", salt=bytes(16)).digest != first
    (source / "a.csv").write_bytes(GOOD.replace(b"Ada", b"Adb"))  # a column that the app never sees counts too
    assert admit_dataset(source, CONTRACT, into=tmp_path / "3", salt=SALT).digest != first


def test_one_file_serves_as_well_as_a_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    single = admit_dataset(source / "a.csv", CONTRACT, into=tmp_path / "1", salt=SALT)
    assert single == admit_dataset(source, CONTRACT, into=tmp_path / "2", salt=SALT)


def test_a_file_that_changes_later_does_not_change_what_the_app_reads(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    admit_dataset(source, CONTRACT, into=tmp_path / "out", salt=SALT)
    (source / "a.csv").write_bytes(b"age,visits\n0,0\n")
    assert b"36,3" in (tmp_path / "out" / "a.csv").read_bytes()


def test_a_byte_order_mark_quotes_and_crlf_are_read(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfage,visits\r\n"36","3\n4"\r\n41,5\r\n'
    admit_dataset(write(tmp_path / "in", a=data), CONTRACT, into=tmp_path / "out", salt=SALT)
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
    admit_dataset(source, CONTRACT, into=tmp_path / "out", salt=SALT)
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


def test_a_used_folder_or_a_short_salt_is_the_callers_error(tmp_path: Path) -> None:
    source = write(tmp_path / "in", a=GOOD)
    with pytest.raises(ValueError, match="into"):
        admit_dataset(source, CONTRACT, into=source, salt=SALT)
    with pytest.raises(ValueError, match="salt"):
        admit_dataset(source, CONTRACT, into=tmp_path / "out", salt=SALT[:-1])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_whatever_the_bytes_they_are_admitted_or_refused(tmp_path: Path, tail: bytes) -> None:
    folder = tmp_path / hashlib.sha256(tail).hexdigest()
    if folder.exists():
        return
    source = write(folder, a=b"age,visits\n" + tail)
    with contextlib.suppress(AppError):
        assert admit_dataset(source, CONTRACT, into=folder / "out", salt=SALT).rows >= CONTRACT.min_rows
