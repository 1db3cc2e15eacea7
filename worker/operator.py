"""What the operator of this site wants of its worker: a file on the site's own machine, and SIGTERM. Trust zone: site.

Rules: nothing of it comes over a network. It is not trusted, and need not be: it can only make the worker do less, and
what it cannot be understood to say is a pause. A withdrawal stands across restarts until the operator takes it back.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, unique
from pathlib import Path

from trusted.errors import Reason

_NAME = "wish"
_MAX_BYTES = 64
_POLL_S = 0.2


@unique
class Wish(Enum):
    """What a worker is to do. ``LEAVE`` is SIGTERM's: end now, come back when you are started again."""

    TAKE_PART = "take-part"
    PAUSE = "pause"
    WITHDRAW = "withdraw"
    LEAVE = "leave"

    @property
    def reason(self) -> Reason | None:
        """What the aggregator is told; None where this site takes part."""
        return _REASONS.get(self)


_REASONS = {
    Wish.PAUSE: Reason.SITE_PAUSED,
    Wish.WITHDRAW: Reason.SITE_WITHDRAWS,
    Wish.LEAVE: Reason.SITE_LEAVES,
}
_WRITTEN = (Wish.TAKE_PART, Wish.PAUSE, Wish.WITHDRAW)


@dataclass(frozen=True, slots=True)
class Departed:
    """This worker's part is over, for now or for good, by its operator's word."""

    wish: Wish


@dataclass(slots=True)
class Operator:
    """The operator's word. ``folder`` holds the file; None: there is none, and SIGTERM alone is heard."""

    folder: Path | None = None
    _leaves: bool = False

    def leave(self, *_: object) -> None:
        """SIGTERM came; may be called by a signal handler."""
        self._leaves = True

    def wish(self) -> Wish:
        """What is wanted now."""
        if self._leaves:
            return Wish.LEAVE
        return Wish.TAKE_PART if self.folder is None else read_wish(self.folder)

    def sleep(self, seconds: float) -> Departed | None:
        """Wait; that the operator wants this worker gone ends it early."""
        until = time.monotonic() + seconds
        while True:
            wish = self.wish()
            if wish in (Wish.LEAVE, Wish.WITHDRAW):
                return Departed(wish)
            left = until - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(_POLL_S, left))


def read_wish(folder: Path) -> Wish:
    """The wish in ``folder``. No file is no wish; what is no wish, or cannot be read, is a pause."""
    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Wish.TAKE_PART
    except OSError:
        return Wish.PAUSE
    try:
        text = os.read(descriptor, _MAX_BYTES)
    except OSError:
        return Wish.PAUSE
    finally:
        os.close(descriptor)
    return next((wish for wish in _WRITTEN if text.strip() == wish.value.encode()), Wish.PAUSE)


def write_wish(folder: Path, wish: Wish) -> None:
    """Let the worker that reads ``folder`` do as told, whenever it runs; whole or not at all.

    Raises:
        ValueError: a wish that is no file's. OSError: it cannot be written.
    """
    if wish not in _WRITTEN:
        raise ValueError(f"wish: one of {[written.value for written in _WRITTEN]} expected")
    beside = folder / f"{_NAME}.new"
    with suppress(FileNotFoundError):
        beside.unlink()
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o644)  # an enclave has a user of its own
        file.write(wish.value.encode() + b"\n")
        file.flush()
        os.fsync(descriptor)
    beside.rename(folder / _NAME)
