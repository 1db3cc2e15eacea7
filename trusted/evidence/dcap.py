"""TDX and SGX quotes as evidence: with Intel's collateral, and for TDX the event log. Trust zone: every TEE.

The kernel and Gramine give a quote alone. Collateral comes from the operator, who fetches it from Intel or a caching
service; the host may lie about it and about the log, and peers verify both. Nothing here opens a socket.
Sources: Linux ``Documentation/ABI/testing/configfs-tsm-report``; ACPI 6.5, CCEL.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trusted.attestation.evidence import MAX_REPORT_BYTES, Evidence, EvidenceFormat
from trusted.attestation.formats import ccel
from trusted.attestation.verify.dcap import COLLATERAL, EVENT_LOG
from trusted.attestation.verify.intel_collateral import MAX_COLLATERAL_BYTES
from trusted.errors import AttestationError, Reason, TeeError
from trusted.evidence.configfs_tsm import EvidenceMaker, TsmReport

TDX_PROVIDER = b"tdx_guest"
CCEL_FILE = Path("/sys/firmware/acpi/tables/data/CCEL")

# Intel's collateral for a quote, as the JSON of attestation.md 1.2; asked for each time, so that it can be renewed.
CollateralSource = Callable[[bytes], bytes]
# The event log as it is now; empty when there is none.
LogSource = Callable[[], bytes]


def collateral_file(path: Path) -> CollateralSource:
    """Collateral that the operator keeps up to date in a file; it is read again for each quote."""

    def read(quote: bytes) -> bytes:
        try:
            return _read_bounded(path, MAX_COLLATERAL_BYTES)
        except OSError:
            raise TeeError(
                Reason.TEE_REPORT, f"no readable {path}: place Intel's collateral for this platform there, as JSON"
            ) from None

    return read


def ccel_file(path: Path = CCEL_FILE) -> LogSource:
    """The firmware's log without the unused rest of its table; empty where the firmware keeps none."""

    def read() -> bytes:
        if not path.exists():
            return b""
        try:
            return ccel.used_bytes(_read_bounded(path, ccel.MAX_LOG_BYTES))
        except OSError:
            raise TeeError(Reason.TEE_REPORT, f"{path}: cannot be read; run with the right to read it") from None
        except AttestationError as error:
            raise TeeError(Reason.TEE_REPORT, f"{path}: {error.detail}") from None

    return read


def tdx_maker(collateral: CollateralSource, event_log: LogSource = ccel_file()) -> EvidenceMaker:  # noqa: B008
    """What makes evidence of a TD's quote, zeros after it included, for ``configfs_tsm.detect(makers=…)``."""

    def make(report: TsmReport) -> Evidence:
        if not 0 < len(report.outblob) <= MAX_REPORT_BYTES:
            raise TeeError(
                Reason.TEE_REPORT,
                f"configfs-tsm outblob: a quote of at most {MAX_REPORT_BYTES} bytes expected; does the host run a "
                "quote generation service?",
            )
        parts = [(COLLATERAL, required(collateral(report.outblob)))]
        log = event_log()
        if len(log) > ccel.MAX_LOG_BYTES:
            raise TeeError(Reason.TEE_REPORT, f"event log: at most {ccel.MAX_LOG_BYTES} bytes expected")
        parts += [(EVENT_LOG, log)] if log else []
        return Evidence(EvidenceFormat.TDX, report.outblob, (), b"", tuple(parts))

    return make


def required(collateral: bytes) -> bytes:
    """``collateral``, if there is any and not too much.

    Raises:
        TeeError: TEE_REPORT.
    """
    if not 0 < len(collateral) <= MAX_COLLATERAL_BYTES:
        raise TeeError(Reason.TEE_REPORT, f"collateral: 1 to {MAX_COLLATERAL_BYTES} bytes of Intel's JSON expected")
    return collateral


def _read_bounded(path: Path, most: int) -> bytes:
    """The file's content; one byte more than ``most`` at most, which the caller then finds too much."""
    with path.open("rb") as file:
        return file.read(most + 1)
