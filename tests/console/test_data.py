"""The data steward's commands: check, seal, show, open, prove; CSV and Parquet; and what must not be written."""

from __future__ import annotations

import datetime as dt
import json
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.store import STORE_KEY, KeyStore
from console import keyfiles
from console.output import UserError
from console.tables import tables
from tests.console.processes import cloister, made
from tests.documents import consortium as c
from trusted.documents.dsse import new_envelope
from trusted.documents.plan import PAYLOAD_TYPE
from trusted.documents.terms import ColumnRule, ColumnType
from trusted.errors import Reason
from trusted.hpke import SealingKey
from trusted.sealed_data import SEGMENT_BYTES
from trusted.wire import encode_json

CHARTER = c.charter()
DATASET: dict[str, Any] = {
    "min_rows": 2,
    "columns": [{"name": "age", "type": "integer", "unit": "a", "low": 0, "high": 120}, "visits"],
    "consent": {"column": "ok", "value": "yes"},
    "expires": {"column": "until"},
}
CSV = """\
name,ok,age,visits,until
Ada,yes,36,3,2999-01-01
Bob,no,37,4,2999-01-01
Cy,yes,38,5,2001-01-01
Eve,yes,39,6,2999-01-01
"""
ENTERED = "age,visits,ok,until\n36,3,yes,2999-01-01\n39,6,yes,2999-01-01\n"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return plan_of(tmp_path, DATASET)


def plan_of(folder: Path, dataset: Any) -> Path:
    path = folder / "plan.dsse.json"
    path.write_bytes(new_envelope(encode_json(c.plan_json(CHARTER, dataset=dataset)), PAYLOAD_TYPE).encode())
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "visits.csv"
    path.write_text(CSV)
    return path


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder, private = tmp_path / "keys", SealingKey.generate()
    KeyStore.create(folder, member="hospital-a", public=private.public).close()
    keyfiles.write_sealing_key(folder / STORE_KEY, private, None, force=False)
    return folder


def sealed(data: Path, plan: Path, keys: Path, *more: object) -> Path:
    out = data.with_name("visits.sealed")
    made("data", "seal", data, "--plan", plan, "--member", "hospital-a", "--keys", keys, "--out", out, *more)
    return out


def test_data_that_holds_is_said_to_hold(data: Path, plan: Path) -> None:
    found = made("data", "check", data, "--plan", plan).data
    assert (found["verdict"], found["rows"], found["without_consent"], found["expired"]) == ("holds", 2, 1, 1)
    assert (found["columns"][0]["lowest"], found["columns"][0]["highest"]) == ("36", "39")
    assert found["commitment"] is None


def test_what_breaks_the_contract_is_shown_with_row_and_value(data: Path, plan: Path) -> None:
    data.write_text(CSV.replace("36", "360"))
    answer = cloister("data", "check", data, "--plan", plan)
    assert answer.code == 3
    found = answer.data
    assert (found["verdict"], found["refusal"]["code"]) == ("refused", Reason.DATA_VALUES.code)
    assert found["columns"][0]["examples"] == [{"file": "visits.csv", "row": 1, "rule": "high", "value": "360"}]
    assert "'360'; the contract wants at most 120" in answer.stderr


def test_too_few_rows_and_a_missing_column_are_refused(data: Path, tmp_path: Path) -> None:
    few = plan_of(tmp_path, DATASET | {"min_rows": 3})
    assert cloister("data", "check", data, "--plan", few).data["refusal"]["code"] == Reason.DATA_CONTRACT.code
    data.write_text("age,visits\n1,2\n")
    answer = cloister("data", "check", data, "--plan", few)
    assert (answer.code, "'ok'" in answer.data["refusal"]["detail"]) == (3, True)


def test_the_moment_of_the_check_can_be_given(data: Path, plan: Path) -> None:
    assert made("data", "check", data, "--plan", plan, "--at", "2000-01-01T00:00:00Z").data["rows"] == 3
    assert cloister("data", "check", data, "--plan", plan, "--at", "yesterday").code != 0


def test_seal_show_and_open(data: Path, plan: Path, keys: Path, tmp_path: Path) -> None:
    file = sealed(data, plan, keys)
    shown = made("data", "show", file).data
    with KeyStore.open(keys) as store:
        (kept,) = store.kept_keys()
    assert (shown["member"], shown["key"]) == ("hospital-a", kept.id.hex())
    assert b"visits" not in file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    made("data", "open", file, "--keys", keys, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == ENTERED
    assert (tmp_path / "again.csv").stat().st_mode & 0o777 == 0o600


def test_without_a_plan_every_column_and_row_is_sealed(data: Path, keys: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.sealed"
    found = made("data", "seal", data, "--member", "hospital-a", "--keys", keys, "--out", out).data
    assert (found["rows"], found["columns"]) == (4, ["name", "ok", "age", "visits", "until"])
    made("data", "open", out, "--keys", keys, "--out", tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_text() == CSV


def test_a_folder_is_sealed_as_one_table_whatever_the_order_of_its_columns(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("x,y\n1,2\n")
    (tmp_path / "in" / "b.csv").write_text("y,x\n4,3\n")
    seal = ["data", "seal", tmp_path / "in", "--member", "hospital-a", "--keys", keys, "--out", tmp_path / "s"]
    made(*seal)
    made("data", "open", tmp_path / "s", "--keys", keys, "--out", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "x,y\n1,2\n3,4\n"
    (tmp_path / "in" / "c.csv").write_text("x,z\n1,2\n")
    assert "another set of columns" in cloister(*seal, "--force").error["message"]


def test_nothing_is_left_when_sealing_fails(data: Path, plan: Path, keys: Path) -> None:
    data.write_text(CSV.replace("39", "old"))
    before = sorted(path.name for path in data.parent.iterdir())
    answer = cloister("data", "seal", data, "--plan", plan, "--member", "hospital-a", "--keys", keys, "--out",
                      data.with_name("visits.sealed"))  # fmt: skip
    assert answer.error["code"] == Reason.DATA_VALUES.code
    assert "old" not in answer.stdout + answer.stderr
    assert sorted(path.name for path in data.parent.iterdir()) == before
    with KeyStore.open(keys) as store:
        assert store.kept_keys() == []


def test_an_existing_file_is_not_replaced_unless_asked(data: Path, plan: Path, keys: Path) -> None:
    first = sealed(data, plan, keys).read_bytes()
    again = ["data", "seal", data, "--member", "hospital-a", "--keys", keys, "--out", data.with_name("visits.sealed")]
    assert "exists" in cloister(*again).error["message"]
    assert data.with_name("visits.sealed").read_bytes() == first
    assert made(*again, "--force")
    assert data.with_name("visits.sealed").read_bytes() != first


@pytest.mark.parametrize("member", ["bank-c", "stranger", "Hospital A"])
def test_another_members_store_or_a_stranger_is_refused(data: Path, plan: Path, keys: Path, member: str) -> None:
    out = data.with_name("x")
    assert cloister("data", "seal", data, "--plan", plan, "--member", member, "--keys", keys, "--out", out).code != 0
    assert not out.exists()


def test_what_is_sealed_is_not_sealed_again_and_what_is_not_is_not_opened(data: Path, plan: Path, keys: Path) -> None:
    file = sealed(data, plan, keys)
    out = ["--keys", keys, "--out", data.with_name("x")]
    assert "sealed already" in cloister("data", "seal", file, "--member", "hospital-a", *out).error["message"]
    assert "not a sealed data set" in cloister("data", "open", data, *out).error["message"]
    assert "not a sealed data set" in cloister("data", "show", data).error["message"]
    assert "--keys" in cloister("data", "check", file, "--plan", plan).error["hint"]


def test_a_cut_file_opens_to_no_file_at_all(data: Path, plan: Path, keys: Path, tmp_path: Path) -> None:
    data.write_text("age,visits,ok,until\n" + f"36,{'3' * 1000},yes,2999-01-01\n" * 2500)
    file = sealed(data, plan, keys)
    assert file.stat().st_size > 2 * SEGMENT_BYTES
    os.truncate(file, 2 * SEGMENT_BYTES)
    answer = cloister("data", "open", file, "--keys", keys, "--out", tmp_path / "out.csv")
    assert answer.error["code"] == Reason.DATA_SEALED.code
    assert not [path for path in tmp_path.iterdir() if "out.csv" in path.name]


def test_a_row_is_proved_to_who_has_the_commitment_alone(data: Path, plan: Path, keys: Path, tmp_path: Path) -> None:
    file, out = sealed(data, plan, keys), tmp_path / "row.json"
    committed = made("data", "check", file, "--plan", plan, "--keys", keys).data["commitment"]
    proved = made("data", "prove", file, "--plan", plan, "--keys", keys, "--row", 2, "--out", out).data
    assert proved["commitment"] == committed
    assert out.stat().st_mode & 0o777 == 0o600
    found = made("data", "verify-row", out, "--commitment", committed).data
    assert (found["row"], found["index"], found["rows"]) == ({"age": "39", "visits": "6"}, 1, 2)
    other = "00" * 32
    assert cloister("data", "verify-row", out, "--commitment", other).error["code"] == Reason.DATA_PROOF.code
    out.write_bytes(out.read_bytes().replace(b'"39"', b'"38"'))
    assert cloister("data", "verify-row", out, "--commitment", committed).error["code"] == Reason.DATA_PROOF.code
    again = ["data", "prove", file, "--plan", plan, "--keys", keys, "--out", out, "--force"]
    assert "no row 3" in cloister(*again, "--row", 3).error["message"]


# Parquet


def written(folder: Path, table: pa.Table, **options: Any) -> Path:
    path = folder / "table.parquet"
    pq.write_table(table, path, **options)
    return path


def read(path: Path, rules: dict[str, ColumnRule] | None = None) -> list[list[str]]:
    return [row for table in tables(path, rules or {}) for row in (table.header, *table.rows)]


UTC_MOMENT = dt.datetime(2026, 3, 1, 11, 30, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, -(2**63)], pa.int64(), ["1", "", str(-(2**63))]),
        ([0, 255], pa.uint8(), ["0", "255"]),
        ([0.1, None, float("nan"), 3.0, 1e300], pa.float64(), ["0.1", "", "", "3.0", "1e+300"]),
        ([0.1, None, float("nan"), 3.0], pa.float32(), ["0.1", "", "", "3.0"]),
        ([float("inf")], pa.float64(), ["inf"]),
        ([True, False, None], pa.bool_(), ["true", "false", ""]),
        (["a,b", "", None, "Ärger\n"], pa.string(), ["a,b", "", "", "Ärger\n"]),
        (["x"], pa.large_string(), ["x"]),
        (["x"], pa.string_view(), ["x"]),
        ([None], pa.null(), [""]),
        ([dt.date(2026, 3, 1), None], pa.date32(), ["2026-03-01", ""]),
        ([dt.date(2026, 3, 1)], pa.date64(), ["2026-03-01"]),
        ([dt.datetime(2026, 3, 1, 11, 30)], pa.timestamp("ms"), ["2026-03-01T11:30:00"]),
        ([UTC_MOMENT, None], pa.timestamp("us", "UTC"), ["2026-03-01T11:30:00Z", ""]),
        ([UTC_MOMENT], pa.timestamp("ns", "Europe/Paris"), ["2026-03-01T11:30:00Z"]),
        ([1_500_000_001], pa.timestamp("ns"), ["1970-01-01T00:00:01.500000"]),
        ([Decimal("1.50"), None, Decimal("0.01")], pa.decimal128(9, 2), ["1.50", "", "0.01"]),
    ],
)  # fmt: skip
def test_each_parquet_type_has_one_spelling(tmp_path: Path, values: list[Any], kind: Any, expected: list[str]) -> None:
    path = written(tmp_path, pa.table({"x": pa.array(values, kind), "n": range(len(values))}))
    assert [row[0] for row in read(path)] == ["x", *expected]


def test_dictionaries_are_the_values_that_they_name(tmp_path: Path) -> None:
    texts = pa.array(["f", "m", None, "f"]).dictionary_encode()
    days = pa.array([dt.date(2026, 3, 1)] * 4).dictionary_encode()
    assert read(written(tmp_path, pa.table({"x": texts, "y": days})))[1:] == [
        ["f", "2026-03-01"], ["m", "2026-03-01"], ["", "2026-03-01"], ["f", "2026-03-01"],
    ]  # fmt: skip


def test_whole_floats_are_whole_numbers_where_the_contract_wants_those(tmp_path: Path) -> None:
    path = written(tmp_path, pa.table({"x": pa.array([1.0, None, 2.5])}))
    assert read(path, {"x": ColumnRule("x", ColumnType.INTEGER)})[1:] == [["1"], [""], ["2.5"]]
    assert read(path, {"x": ColumnRule("x", ColumnType.NUMBER)})[1:] == [["1.0"], [""], ["2.5"]]


@pytest.mark.parametrize(
    ("values", "kind"),
    [([[1]], pa.list_(pa.int64())), ([{"a": 1}], pa.struct([("a", pa.int64())])), ([b"x"], pa.binary()),
     ([dt.timedelta(1)], pa.duration("s")), ([[("a", 1)]], pa.map_(pa.string(), pa.int64()))],
)  # fmt: skip
def test_a_type_without_a_spelling_is_refused_by_name(tmp_path: Path, values: list[Any], kind: Any) -> None:
    path = written(tmp_path, pa.table({"ok": [1], "bad": pa.array(values, kind)}))
    with pytest.raises(UserError, match=r"'bad'.*no spelling"):
        read(path)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, pa.table({"x": [1]}))
    path.write_bytes(path.read_bytes()[:-6])
    with pytest.raises(UserError, match="Parquet"):
        read(path)


def test_parquet_is_read_batch_by_batch(tmp_path: Path) -> None:
    path = written(tmp_path, pa.table({"x": range(50_000)}), row_group_size=1000)
    for table in tables(path, {}):
        assert next(table.rows) == ["0"]
        assert sum(1 for _ in table.rows) == 49_999


def test_parquet_and_csv_of_the_same_rows_seal_to_the_same_table(data: Path, plan: Path, keys: Path) -> None:
    lines = [line.split(",") for line in CSV.splitlines()]
    columns = {name: [row[place] for row in lines[1:]] for place, name in enumerate(lines[0])}
    days = [dt.date.fromisoformat(day) for day in columns["until"]]
    table = pa.table(columns | {"age": list(map(int, columns["age"])), "until": days})
    file = sealed(written(data.parent, table), plan, keys)
    made("data", "open", file, "--keys", keys, "--out", data.with_name("again.csv"))
    assert data.with_name("again.csv").read_text() == ENTERED


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=5)), min_size=1, max_size=5))
def test_what_parquet_holds_reads_back_from_its_spelling(rows: list[tuple[float, int, str]]) -> None:
    import tempfile

    floats, wholes, texts = (list(column) for column in zip(*rows, strict=True))
    try:
        table = pa.table({"f": floats, "i": wholes, "t": texts})
    except UnicodeEncodeError:
        return
    with tempfile.TemporaryDirectory() as folder:
        found = read(written(Path(folder), table))[1:]
    for row, (number, whole, text) in zip(found, rows, strict=True):
        assert (int(row[1]), row[2]) == (whole, text)
        assert row[0] == "" if number != number else float(row[0]) == number


def test_json_and_words_say_the_same(data: Path, plan: Path) -> None:
    from typer.testing import CliRunner

    from tests.console.conftest import APP

    said = CliRunner().invoke(APP, ["data", "check", str(data), "--plan", str(plan)]).stdout
    assert "2 row(s) enter; left out: 1 without consent, 1 past their time" in said
    assert "integer 0..120 a" in said
    assert json.dumps(made("data", "check", data, "--plan", plan).data)
