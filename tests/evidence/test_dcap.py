"""TDX evidence through configfs-tsm: a fake kernel, the operator's collateral, the firmware's log."""

from __future__ import annotations

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.attestation.from_vector.intel import root_of
from tests.attestation.intel_quotes import tdx_quote
from tests.attestation.test_ccel import LOG
from tests.attestation.vectors import folder
from trusted.attestation.appraise import verify
from trusted.attestation.evidence import EvidenceFormat
from trusted.errors import Reason, TeeError
from trusted.evidence.configfs_tsm import ConfigfsTsm, EvidenceMaker
from trusted.evidence.dcap import TDX_PROVIDER, ccel_file, collateral_file, tdx_maker

REPORT_DATA = bytes(range(64))


class FakeTdxKernel:
    """``/sys/kernel/config/tsm/report`` of a TD: its quotes carry ``inblob`` and are padded, and it has no auxblob."""

    def __init__(self, quote: bytes | None = None) -> None:
        self.quote = quote
        self.inblob: dict[str, bytes] = {}
        self.generation: dict[str, int] = {}

    def make(self, name: str) -> None:
        self.generation[name] = 0

    def write(self, name: str, attribute: str, content: bytes) -> None:
        assert attribute == "inblob"
        self.inblob[name] = content
        self.generation[name] += 1

    def read(self, name: str, attribute: str) -> bytes:
        if attribute == "generation":
            return b"%d\n" % self.generation[name]
        if attribute == "provider":
            return TDX_PROVIDER + b"\n"
        if attribute == "auxblob":
            return b""
        assert attribute == "outblob"
        if name not in self.inblob:
            raise OSError(errno.EINVAL, "inblob was not written")
        if self.quote is not None:
            return self.quote
        made = bytearray(tdx_quote(4))
        made[48 + 520 : 48 + 584] = self.inblob[name]
        return bytes(made).ljust(8000, b"\0")

    def remove(self, name: str) -> None:
        del self.generation[name]


def source(maker: EvidenceMaker, kernel: FakeTdxKernel | None = None) -> ConfigfsTsm:
    return ConfigfsTsm(kernel or FakeTdxKernel(), makers={TDX_PROVIDER: maker}, pause=lambda seconds: None)


def refused(maker: EvidenceMaker, kernel: FakeTdxKernel | None = None) -> TeeError:
    with pytest.raises(TeeError) as error:
        source(maker, kernel).evidence(REPORT_DATA)
    return error.value


def test_a_td_gives_its_quote_whole_with_collateral_and_log() -> None:
    evidence = source(tdx_maker(lambda quote: b"{}", lambda: LOG)).evidence(REPORT_DATA)
    assert evidence.format is EvidenceFormat.TDX
    assert len(evidence.report) == 8000
    assert evidence.report[568:632] == REPORT_DATA
    assert evidence.parts == (("collateral", b"{}"), ("event-log", LOG))
    assert (evidence.certificates, evidence.crl) == ((), b"")


def test_a_firmware_without_a_log_sends_none() -> None:
    assert source(tdx_maker(lambda quote: b"{}", lambda: b"")).evidence(REPORT_DATA).parts == (("collateral", b"{}"),)


def test_collateral_is_asked_for_with_the_very_quote() -> None:
    asked: list[bytes] = []

    def fetched(quote: bytes) -> bytes:
        asked.append(quote)
        return b"{}"

    evidence = source(tdx_maker(fetched, lambda: b"")).evidence(REPORT_DATA)
    assert asked == [evidence.report]


@pytest.mark.parametrize("content", [b"", b"x" * (257 << 10)])
def test_collateral_that_is_absent_or_too_large_is_an_error(content: bytes) -> None:
    assert refused(tdx_maker(lambda quote: content, lambda: b"")).reason is Reason.TEE_REPORT


@pytest.mark.parametrize("size", [0, (32 << 10) + 1])
def test_a_quote_of_no_size_or_too_large_is_an_error(size: int) -> None:
    error = refused(tdx_maker(lambda quote: b"{}", lambda: b""), FakeTdxKernel(bytes(size)))
    assert error.reason is Reason.TEE_REPORT


def test_a_td_without_a_source_of_collateral_is_told_so() -> None:
    with pytest.raises(TeeError, match="needs Intel's collateral"):
        ConfigfsTsm(FakeTdxKernel()).evidence(REPORT_DATA)


def test_collateral_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "intel.json"
    read = collateral_file(file)
    with pytest.raises(TeeError, match=r"intel\.json.*place Intel's collateral"):
        read(b"quote")
    for content in (b"old", b"new"):
        file.write_bytes(content)
        assert read(b"quote") == content
    file.write_bytes(b"x" * (300 << 10))
    assert refused(tdx_maker(read, lambda: b"")).reason is Reason.TEE_REPORT


def test_the_firmwares_log_is_read_without_the_rest_of_its_table(tmp_path: Path) -> None:
    file = tmp_path / "CCEL"
    assert ccel_file(file)() == b""
    file.write_bytes(LOG + b"\xff" * 65536)
    assert ccel_file(file)() == LOG
    for broken in (b"\xff" * 4096, LOG + b"x" * 100, LOG + bytes(300 << 10)):
        file.write_bytes(broken)
        with pytest.raises(TeeError) as error:
            ccel_file(file)()
        assert error.value.reason is Reason.TEE_REPORT


def test_a_log_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "CCEL").mkdir()
    with pytest.raises(TeeError, match="cannot be read"):
        ccel_file(tmp_path / "CCEL")()


def test_a_real_padded_quote_with_real_collateral_makes_evidence_that_verifies() -> None:
    vector = folder("tdx", "v4_outofdate_gcp_2025-02")
    kernel = FakeTdxKernel((vector / "quote.bin").read_bytes())
    maker = tdx_maker(collateral_file(vector / "collateral.json"), lambda: b"")
    evidence = source(maker, kernel).evidence(REPORT_DATA)
    verify(evidence, [root_of(EvidenceFormat.TDX)], datetime(2025, 2, 13, 16, 0, 32, tzinfo=UTC))
