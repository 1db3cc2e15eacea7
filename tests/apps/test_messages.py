"""Messages as bytes: what comes back is what was said, and whatever else is refused for one reason."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from trusted.apps.flower_records import flower_records, plain_records
from trusted.apps.messages import DTYPES, AppMessage, AppRecord, Opaque, RecordKind
from trusted.errors import AppError, Reason

SIZE = 1 << 16
ARRAYS = {
    "w": np.arange(6, dtype="f4").reshape(2, 3),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 4), "i8"),
    "big-endian": np.arange(3, dtype=">i4"),
    "truth": np.array([True, False]),
    "nan": np.array([np.nan, np.inf], "f2"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}
VALUES: dict[str, Any] = {
    "yes": True,
    "int": -(1 << 63),
    "node": (1 << 64) - 1,
    "whole": 3.0,
    "nan": math.nan,
    "tiny": 5e-324,
    "text": "ünïcode, \x00 and }",
    "bytes": b"\x00\xff" * 9,
    "ints": [1, 2, 3],
    "floats": [1.0, -0.0],
    "texts": ["a", ""],
    "several": [b"", b"x" * 40],
    "truths": [True, False],
    "empty": [],
}


def message(*records: AppRecord, kind: str = "train", group: str = "1") -> AppMessage:
    return AppMessage(kind, group, records)


def full() -> AppMessage:
    metrics = {key: VALUES[key] for key in ("int", "whole", "nan", "ints", "floats", "empty")}
    return message(
        AppRecord("arrays", RecordKind.ARRAYS, ARRAYS | {"own": Opaque("bf16", (2,), "my.form", b"\x01\x02\x03\x04")}),
        AppRecord("metrics", RecordKind.METRICS, metrics),
        AppRecord("config", RecordKind.CONFIG, VALUES),
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype.name == other.dtype.name and one.shape == other.shape and np.array_equal(one, other, True)
    if isinstance(one, float):
        return type(other) is float and one.hex() == other.hex()
    return type(one) is type(other) and one == other


def test_every_value_comes_back_in_its_order_with_its_type() -> None:
    said = full()
    read = AppMessage.parse(said.encode(SIZE))
    assert (read.kind, read.group) == ("train", "1")
    assert [record.name for record in read.records] == ["arrays", "metrics", "config"]
    for one, other in zip(said.records, read.records, strict=True):
        assert list(one.values) == list(other.values)
        for key, value in one.values.items():
            if isinstance(value, np.ndarray) and value.dtype.name not in ("bool",) and value.dtype.kind == "f":
                np.testing.assert_array_equal(value, other.values[key])
            else:
                assert same(value, other.values[key]), key


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_of_plain_numbers_passes(dtype: str) -> None:
    array = np.ones((2, 2), dtype)
    said = message(AppRecord("a", RecordKind.ARRAYS, {"x": array}))
    found = AppMessage.parse(said.encode(SIZE)).records[0].values["x"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("dtype", ["object", "M8[ns]", "double", "UINT64", "uint46"])
def test_no_other_name_of_a_dtype_of_as_many_bytes_is_read(dtype: str) -> None:
    encoded = message(AppRecord("a", RecordKind.ARRAYS, {"x": np.ones((2, 2), "uint64")})).encode(SIZE)
    assert encoded.count(b'"uint64"') == 1
    with pytest.raises(AppError) as caught:
        AppMessage.parse(encoded.replace(b'"uint64"', f'"{dtype}"'.encode()))
    assert caught.value.reason is Reason.MESSAGE_FORM


def test_every_message_of_a_size_is_of_that_size_and_no_larger_one_is_made() -> None:
    said = full()
    least = int.from_bytes(said.encode(SIZE)[:8], "big") + 8
    assert len(said.encode(least)) == least
    assert AppMessage.parse(said.encode(least)).kind == "train"
    with pytest.raises(AppError) as caught:
        said.encode(least - 1)
    assert caught.value.reason is Reason.MESSAGE_SIZE


@pytest.mark.parametrize(
    "bad",
    [
        AppRecord("a", RecordKind.ARRAYS, {"x": np.array([{}], dtype=object)}),
        AppRecord("a", RecordKind.ARRAYS, {"x": np.array(["word"])}),
        AppRecord("a", RecordKind.ARRAYS, {"x": np.zeros(1, "M8[s]")}),
        AppRecord("a", RecordKind.METRICS, {"x": "word"}),
        AppRecord("a", RecordKind.METRICS, {"x": True}),
        AppRecord("a", RecordKind.CONFIG, {"x": None}),
        AppRecord("a", RecordKind.CONFIG, {"x": [1, "two"]}),
        AppRecord("a", RecordKind.CONFIG, {"x": 1 << 70}),
        AppRecord("", RecordKind.CONFIG, {}),
        AppRecord("a", RecordKind.CONFIG, {"x" * 300: 1}),
    ],
)
def test_what_no_message_may_hold_is_not_written(bad: AppRecord) -> None:
    with pytest.raises(AppError) as caught:
        message(bad).encode(SIZE)
    assert caught.value.reason is Reason.MESSAGE_FORM


def test_a_bit_a_byte_short_and_words_in_the_padding_are_refused() -> None:
    encoded = full().encode(SIZE)
    used = int.from_bytes(encoded[:8], "big") + 8
    for wrong in (
        encoded[: used - 1],
        b"",
        encoded[:7],
        encoded[: SIZE - 1] + b"\x01",
        (used - 9).to_bytes(8, "big") + encoded[8:],
        (used - 7).to_bytes(8, "big") + encoded[8:],
        encoded.replace(b'"raw"', b'"rwa"', 1),
        encoded.replace(b'"float32"', b'"float64"', 1),
        encoded.replace(b'"metrics","metrics"', b'"metrics","metrisc"', 1),
    ):
        with pytest.raises(AppError) as caught:
            AppMessage.parse(wrong)
        assert caught.value.reason is Reason.MESSAGE_FORM


def parsed_or_refused(data: bytes) -> None:
    """Nothing but an AppError comes out of the parser."""
    with contextlib.suppress(AppError):
        AppMessage.parse(data)


@given(place=st.integers(8, 2000), value=st.integers(0, 255))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_parses_or_is_refused(place: int, value: int) -> None:
    changed = bytearray(full().encode(8192))
    changed[place] = value
    parsed_or_refused(bytes(changed))


@given(data=st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    parsed_or_refused(data)


def test_flowers_records_come_back_as_they_were() -> None:
    content = RecordDict(
        {
            "arrays": ArrayRecord({"b": Array(np.arange(4.0)), "a": Array(np.ones((2, 1), "i8"))}),
            "metrics": MetricRecord({"loss": 1.0, "n": 3, "per-class": [0.5, 0.25]}),
            "config": ConfigRecord({"lr": 1.0, "on": True, "blob": b"\x00", "names": ["a", "b"]}),
        }
    )
    passed = AppMessage.parse(AppMessage("train", "", plain_records(content)).encode(SIZE))
    again = flower_records(passed.records)
    assert list(again["arrays"]) == ["b", "a"]
    for name, array in content["arrays"].items():
        assert again["arrays"][name].data == array.data
    assert dict(again["metrics"]) == dict(content["metrics"])
    assert dict(again["config"]) == dict(content["config"])
    assert type(again["metrics"]["loss"]) is float


def test_an_array_that_only_running_code_could_read_is_refused() -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    pickled = Array(dtype="object", shape=(1,), stype="numpy.ndarray", data=buffer.getvalue())
    with pytest.raises(AppError) as caught:
        plain_records(RecordDict({"arrays": ArrayRecord({"x": pickled})}))
    assert caught.value.reason is Reason.MESSAGE_FORM
