"""Evidence through configfs-tsm: a fake kernel that is busy and has other users, and the real bytes of a real guest."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.vectors import ROOTS, folder
from trusted.attestation.appraise import verify
from trusted.errors import ProtocolError, Reason, TeeError, WireError
from trusted.evidence.configfs_tsm import ConfigfsTsm, KernelTsmFs, detect, parse_certificate_table

REPORT_DATA = bytes(range(64))
VCEK, ASK, ARK, VLEK = (
    bytes.fromhex(guid)
    for guid in (
        "63da758de6644564adc5f4b93be8accd",
        "4ab7b379bbac4fe4a02f05aef327c782",
        "c0b406a4a803495297433fb6014cd0ae",
        "a8074bc2a25a483eaae639c045a0b8a1",
    )
)


def table(entries: dict[bytes, bytes]) -> bytes:
    """A GHCB certificate table."""
    offset = (len(entries) + 1) * 24
    head = body = b""
    for guid, content in entries.items():
        head += struct.pack("<16sII", guid, offset + len(body), len(content))
        body += content
    return head + b"\0" * 24 + body


CHAIN = {VCEK: b"vcek", ASK: b"ask", ARK: b"ark"}


class FakeKernel:
    """``/sys/kernel/config/tsm/report``: requests, one generation counter each, and errors on demand."""

    def __init__(self, *, outblob: bytes | None = None, auxblob: bytes | None = None, provider: bytes = b"sev_guest\n"):
        self.requests: dict[str, dict[str, bytes]] = {}
        self.made = 0
        self.outblob, self.auxblob, self.provider = outblob, auxblob, provider
        self.errors: list[int | None] = []  # for each reading of outblob, first to last
        self.intruders = 0  # how many of the next requests somebody else writes to
        self.generation: dict[str, int] = {}

    def make(self, name: str) -> None:
        assert name not in self.requests
        self.requests[name] = {}
        self.generation[name] = 7
        self.made += 1

    def write(self, name: str, attribute: str, content: bytes) -> None:
        assert attribute == "inblob"
        self.requests[name][attribute] = content
        self.generation[name] += 1

    def read(self, name: str, attribute: str) -> bytes:
        request = self.requests[name]
        if attribute == "generation":
            return b"%d\n" % self.generation[name]
        if attribute == "provider":
            return self.provider
        if "inblob" not in request:
            raise OSError(errno.EINVAL, "inblob was not written")
        if attribute == "auxblob":
            return table(CHAIN) if self.auxblob is None else self.auxblob
        assert attribute == "outblob"
        if self.errors and (error := self.errors.pop(0)):
            raise OSError(error, os.strerror(error))
        if self.intruders:
            self.intruders -= 1
            self.write(name, "inblob", b"\xff" * 64)
        return self.outblob if self.outblob is not None else request["inblob"].ljust(1184, b"\0")

    def remove(self, name: str) -> None:
        del self.requests[name]


def source(kernel: FakeKernel, waited: list[float] | None = None) -> ConfigfsTsm:
    """An evidence source on ``kernel`` that does not wait, and notes in ``waited`` for how long it would have."""
    return ConfigfsTsm(kernel, pause=([] if waited is None else waited).append)


def test_evidence_carries_report_data_and_the_chain_leaf_first() -> None:
    kernel = FakeKernel()
    evidence = source(kernel).evidence(REPORT_DATA)
    assert evidence.report[:64] == REPORT_DATA
    assert evidence.certificates == (b"vcek", b"ask", b"ark")
    assert evidence.crl == b""
    assert kernel.requests == {}


def test_each_call_is_a_request_of_its_own() -> None:
    kernel = FakeKernel()
    assert source(kernel).evidence(REPORT_DATA) == source(kernel).evidence(REPORT_DATA)
    assert kernel.made == 2


@pytest.mark.parametrize("error", [errno.EBUSY, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT])
def test_a_busy_device_is_asked_again(error: int) -> None:
    kernel = FakeKernel()
    waited: list[float] = []
    kernel.errors = [error, error, None]
    assert source(kernel, waited).evidence(REPORT_DATA).report[:64] == REPORT_DATA
    assert len(waited) == 2
    assert kernel.requests == {}


def test_a_device_that_stays_busy_is_an_error_after_bounded_attempts() -> None:
    kernel = FakeKernel()
    waited: list[float] = []
    kernel.errors = [errno.EBUSY] * 100
    with pytest.raises(TeeError) as refused:
        source(kernel, waited).evidence(REPORT_DATA)
    assert refused.value.reason is Reason.TEE_REPORT
    assert len(kernel.errors) == 92
    assert sum(waited) < 5
    assert kernel.requests == {}


def test_a_concurrent_writer_is_noticed_and_its_report_never_returned() -> None:
    kernel = FakeKernel()
    kernel.intruders = 3
    assert source(kernel).evidence(REPORT_DATA).report[:64] == REPORT_DATA
    assert kernel.made == 4
    kernel.intruders = 100
    with pytest.raises(TeeError) as refused:
        source(kernel).evidence(REPORT_DATA)
    assert refused.value.reason is Reason.TEE_REPORT


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EIO, errno.EACCES])
def test_other_errors_are_final(error: int) -> None:
    kernel = FakeKernel()
    kernel.errors = [error, None]
    with pytest.raises(TeeError) as refused:
        source(kernel).evidence(REPORT_DATA)
    assert refused.value.reason is Reason.TEE_REPORT
    assert kernel.made == 1
    assert kernel.requests == {}


@pytest.mark.parametrize("error", [errno.ENXIO, errno.ENODEV])
def test_a_device_that_vanished_is_missing(error: int) -> None:
    kernel = FakeKernel()
    kernel.errors = [error]
    with pytest.raises(TeeError) as refused:
        source(kernel).evidence(REPORT_DATA)
    assert refused.value.reason is Reason.TEE_DEVICE_MISSING


@pytest.mark.parametrize("size", [0, 32, 63, 65, 96, 128])
def test_report_data_is_never_cut_or_padded(size: int) -> None:
    kernel = FakeKernel()
    with pytest.raises(WireError):
        source(kernel).evidence(b"\0" * size)
    assert kernel.made == 0


@pytest.mark.parametrize("provider", [b"tdx_guest\n", b"arm_cca_guest\n", b"", b"sev_guest2\n"])
def test_another_tee_is_an_error(provider: bytes) -> None:
    with pytest.raises(TeeError, match="sev_guest"):
        source(FakeKernel(provider=provider)).evidence(REPORT_DATA)


@pytest.mark.parametrize("size", [0, 1183, 1185, 4000])
def test_a_report_of_another_size_is_an_error(size: int) -> None:
    with pytest.raises(TeeError, match="outblob"):
        source(FakeKernel(outblob=b"\0" * size)).evidence(REPORT_DATA)


@pytest.mark.parametrize(
    "auxblob",
    [
        b"",
        b"\0" * 24,
        table({VCEK: b"v", ASK: b"a"}),
        table({ASK: b"a", ARK: b"k"}),
        table(CHAIN)[:-1],
        table(CHAIN)[:60],
        table({**CHAIN, VCEK: b""}),
        table({**CHAIN, VCEK: b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----"}),
        table({**CHAIN, VCEK: b"-----BEGIN CERTIFICATE-----\nAAAA\n"}),
    ],
    ids=["empty", "none", "no-ark", "no-leaf", "short", "cut-table", "empty-entry", "not-base64", "no-end"],
)
def test_a_host_that_supplies_no_usable_chain_is_told_what_is_missing(auxblob: bytes) -> None:
    with pytest.raises(TeeError, match="the host must be configured"):
        source(FakeKernel(auxblob=auxblob)).evidence(REPORT_DATA)


def test_a_vlek_stands_where_there_is_no_vcek() -> None:
    kernel = FakeKernel(auxblob=table({VLEK: b"vlek", ASK: b"ask", ARK: b"ark"}))
    assert source(kernel).evidence(REPORT_DATA).certificates[0] == b"vlek"


def test_a_table_with_an_entry_twice_is_refused() -> None:
    twice = struct.pack("<16sII", VCEK, 72, 1) * 2 + b"\0" * 24 + b"x"
    with pytest.raises(WireError):
        parse_certificate_table(twice)


@given(st.binary(max_size=600))
def test_any_table_is_parsed_or_refused(auxblob: bytes) -> None:
    try:
        entries = parse_certificate_table(auxblob)
    except ProtocolError:
        return
    assert all(content in auxblob for content in entries.values())


def test_a_missing_device_is_an_error_that_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match="tsm/report") as refused:
        detect(tmp_path / "tsm" / "report")
    assert refused.value.reason is Reason.TEE_DEVICE_MISSING
    with pytest.raises(TeeError) as gone:
        ConfigfsTsm(KernelTsmFs(tmp_path / "gone")).evidence(REPORT_DATA)
    assert gone.value.reason is Reason.TEE_DEVICE_MISSING


def test_a_directory_that_is_there_is_the_kernels(tmp_path: Path) -> None:
    assert isinstance(detect(tmp_path), ConfigfsTsm)


def test_the_kernels_files_are_read_whole_and_bounded(tmp_path: Path) -> None:
    files = KernelTsmFs(tmp_path)
    files.make("request")
    for name, content in (("inblob", b""), ("outblob", b"x" * 70_000), ("auxblob", b"y" * 4000)):
        (tmp_path / "request" / name).write_bytes(content)
    files.write("request", "inblob", REPORT_DATA)
    assert (tmp_path / "request" / "inblob").read_bytes() == REPORT_DATA
    assert files.read("request", "auxblob") == b"y" * 4000
    with pytest.raises(OSError, match="large") as refused:
        files.read("request", "outblob")
    assert refused.value.errno == errno.EFBIG


def test_real_outblob_and_auxblob_of_a_genoa_guest_make_evidence_that_verifies() -> None:
    vector = folder("snp", "genoa_v3_configfs_tsm")
    read: Callable[[str], bytes] = lambda name: (vector / name).read_bytes()  # noqa: E731
    kernel = FakeKernel(outblob=read("outblob"), auxblob=read("auxblob"), provider=read("provider"))
    evidence = source(kernel).evidence(REPORT_DATA)
    assert evidence.report == read("report.bin")
    assert evidence.certificates[0] == read("cek.der")
    verify(evidence, ROOTS, datetime(2026, 11, 1, tzinfo=UTC))
