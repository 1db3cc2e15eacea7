"""The two clocks of a TEE: what the date is, and what only counts. Trust zone: every TEE's shell."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from trusted.clock import JumpDetector


def utc_now() -> datetime:
    """The wall clock, which is somebody's word."""
    return datetime.now(UTC)


def counted_s() -> float:
    """Seconds that only go up, a machine's sleep included; from where they count means nothing."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def watched() -> JumpDetector:
    """Both, compared from now on."""
    return JumpDetector(utc_now(), counted_s())
