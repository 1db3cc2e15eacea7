"""What every test of a worker may share."""

from __future__ import annotations

import threading
import time

import pytest


@pytest.fixture
def alone() -> None:
    """A worker forks before it has threads. These tests come first (tests/conftest.py); what is left ends by itself."""
    deadline = time.monotonic() + 5
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() == 1, threading.enumerate()
