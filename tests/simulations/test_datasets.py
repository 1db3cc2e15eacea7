"""Tables become datasets: what is read, and one sentence for whatever cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simulations import readers
from simulations.dataset import Dataset
from simulations.partitions import by_column

RAND = sorted((Path(__file__).parent.parent.parent / "data" / "rand_hie").glob("site-*.csv"))
TABLE = "age,sick,code,gap\n41,true,x,1\n52,false,,\n"


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


def test_a_csv_keeps_numbers_truth_and_text(csv: Path) -> None:
    data = Dataset.from_csv(csv, label="sick")
    assert {name: column.dtype.kind for name, column in data.columns.items()} == {
        "age": "i", "sick": "b", "code": "U", "gap": "f",
    }  # fmt: skip
    assert data.column("code").tolist() == ["x", ""]
    assert np.isnan(data.column("gap")[1])
    assert len(Dataset.from_csv(csv, columns=["age"]).columns) == 1


def test_parquet_gives_what_csv_gives(csv: Path, tmp_path: Path) -> None:
    from pyarrow import csv as arrow_csv

    path = tmp_path / "table.parquet"
    pq.write_table(arrow_csv.read_csv(csv), path)
    one, other = Dataset.from_csv(csv), Dataset.from_parquet(path)
    assert one.columns.keys() == other.columns.keys()
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.column(name))
    assert list(Dataset.from_parquet(path, columns=["gap", "age"]).columns) == ["gap", "age"]


def test_the_six_sites_of_rand_are_one_dataset_and_six_sites_again() -> None:
    data = Dataset.from_csvs(RAND)
    partition = by_column(data, "site")
    assert partition.names == tuple(f"site-{number}" for number in range(1, 7))
    assert partition.sizes.tolist() == [1164, 1232, 731, 904, 786, 1090]


def test_digits_are_pixels_from_0_to_1_and_a_label() -> None:
    data = Dataset.digits()
    pixels, labels = data.column("pixels"), data.labels()[0]
    assert (pixels.shape, pixels.dtype, pixels.min(), pixels.max()) == ((1797, 64), np.float32, 0, 1)
    assert labels.tolist() == list(range(10))


@pytest.mark.parametrize("read", [Dataset.from_csv, Dataset.from_parquet], ids=["csv", "parquet"])
def test_what_cannot_be_read_is_said_in_one_sentence(read, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        read(tmp_path / "absent")
    broken = tmp_path / "broken"
    broken.write_bytes(b"a,b\n1\n" * 3)
    with pytest.raises(ValueError, match="cannot be read as a table"):
        read(broken)
    broken.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read as a table"):
        read(broken)


def test_a_missing_column_is_named_with_those_that_there_are(csv: Path, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"age": [1]}), path)
    with pytest.raises(ValueError, match=r"table.csv: no column 'wage'; there are age, sick, code, gap"):
        Dataset.from_csv(csv, columns=["wage"])
    with pytest.raises(ValueError, match=r"table.parquet: no column 'wage'; there are age"):
        Dataset.from_parquet(path, columns=["wage"])
    with pytest.raises(ValueError, match="no column 'wage' for the label"):
        Dataset.from_csv(csv, label="wage")


def test_a_table_without_rows_or_with_values_that_are_none_is_refused(csv: Path, tmp_path: Path) -> None:
    csv.write_text("a,b\n")
    with pytest.raises(ValueError, match="no rows"):
        Dataset.from_csv(csv)
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"when": pa.array([0], pa.date32())}), path)
    with pytest.raises(ValueError, match="column 'when' holds date32"):
        Dataset.from_parquet(path)


def test_what_is_too_large_is_refused_before_it_is_read(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": np.zeros(1_000_000)}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(readers, "MAX_TABLE_BYTES", 1000)
    monkeypatch.setattr(pq, "read_table", None)
    with pytest.raises(ValueError, match="unpacks to more"):
        Dataset.from_parquet(path)
    monkeypatch.setattr(readers, "MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match="larger than"):
        Dataset.from_csv(csv)


def test_files_that_differ_are_told_by_the_column(csv: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("age\n1\n")
    with pytest.raises(ValueError, match="only one of them has 'code'"):
        Dataset.from_csvs([csv, other])
    with pytest.raises(ValueError, match="has a column 'age' already"):
        Dataset.from_csvs([csv], source="age")
    with pytest.raises(ValueError, match="no files"):
        Dataset.from_csvs([])


def test_a_label_with_gaps_or_of_measurements_is_refused() -> None:
    with pytest.raises(ValueError, match="no label is named"):
        Dataset({"a": np.arange(3)}).labels()
    with pytest.raises(ValueError, match="rows without a value in 'a'"):
        Dataset({"a": np.array([1.0, np.nan])}, "a").labels()
    with pytest.raises(ValueError, match="cut it into classes"):
        Dataset({"a": np.arange(1001)}, "a").labels()


def test_only_some_rows_are_kept() -> None:
    data = Dataset({"a": np.array([1.0, np.nan, 3.0])}, "a")
    assert data.only(~np.isnan(data.column("a"))).labels()[0].tolist() == [1.0, 3.0]
    for which in (np.ones(2, bool), np.zeros(3, bool)):
        with pytest.raises(ValueError, match="at least one of 3 rows"):
            data.only(which)


def test_rows_held_out_are_nobodys_else() -> None:
    data = Dataset({"a": np.arange(100)})
    train, test = data.held_out(0.2, seed=3)
    assert (len(train), len(test)) == (80, 20)
    assert set(train.column("a")) | set(test.column("a")) == set(range(100))
    for share in (0.0, 1.0, 2.0, -0.1):
        with pytest.raises(ValueError, match="leaves nothing"):
            data.held_out(share)
