"""A process of its own takes the app's words from a pipe, and leaves them on the disk sealed. Trust zone: worker.

It is forked before keys exist and before the trainer, and has nothing but the pipe, the file and the member's public
key. An app that prints without end, or a disk that is full, therefore holds up neither the session nor the trainer:
what does not fit is dropped, and the log says so. It ends when the last process that could print has ended, so the
words of an app that crashed are kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from trusted.confinement import Confinement, confine
from worker.app_log import BLOCK_BYTES, MAX_PARTS, WORDS_A_PART, LogSealer, Part, Reader

_KEEP_S = 1.0  # words wait no longer than this for the disk
_END_TIMEOUT_S = 5.0
_DROPPED = b"\n[what the app printed after this was dropped: a log holds 64 MiB]\n"


@dataclass(slots=True)
class LogProcess:
    """The parent's handle. ``descriptor`` is what the trainer prints to; close it here once the trainer has it."""

    pid: int
    descriptor: int

    @classmethod
    def start(cls, path: Path, reader: Reader | None) -> LogProcess:
        """Fork a process that appends to ``path`` what comes out of ``descriptor``; without ``reader`` words are lost.

        Raises:
            OSError: the file cannot be written.
        """
        if reader is None:
            return cls(0, os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC))
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        words, descriptor = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            _child(words, file, reader)
        os.close(words)
        os.close(file)
        return cls(pid, descriptor)

    def wait(self) -> None:
        """Give it five seconds to write what there is still to write; called once the trainer has ended."""
        if self.pid == 0:
            return
        deadline = time.monotonic() + _END_TIMEOUT_S
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                if time.monotonic() > deadline:  # somebody still holds the pipe
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(self.pid, signal.SIGKILL)
                    return
                time.sleep(0.002)
        self.pid = 0


def _child(words: int, file: int, reader: Reader) -> NoReturn:
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        kept = {words, file}
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor not in kept:
                with contextlib.suppress(OSError):  # the listing's own, closed already
                    os.close(descriptor)
        os.environ.clear()
        os.chdir("/")
        sealer = LogSealer(reader)
        confine(Confinement(readable=(), writable=(), connect_ports=(), allow_exec=False))
        _Writing(file, sealer).take_all(words)
    finally:
        os._exit(0)


class _Writing:
    """The file of one start, block after block; a block that does not fit on the disk is missing there."""

    def __init__(self, file: int, sealer: LogSealer) -> None:
        self._file = file
        self._sealer = sealer
        self._begin = -(-os.fstat(file).st_size // BLOCK_BYTES) * BLOCK_BYTES  # after a block that was torn
        self._tail = bytearray()
        self._number = 0
        self._dropped = False
        self._write(self._begin, sealer.head)

    def take_all(self, words: int) -> None:
        """Everything until the last writer of the pipe has gone."""
        poll = select.poll()
        poll.register(words, select.POLLIN)
        due: float | None = None
        while True:
            wait_ms = None if due is None else max(0.0, 1000 * (due - time.monotonic()))
            if not poll.poll(wait_ms):
                self._put(Part.TAIL)
                due = None
                continue
            taken = os.read(words, 1 << 16)
            if not taken:
                break
            if self._take(taken) and due is None:
                due = time.monotonic() + _KEEP_S
        self._put(Part.LAST)

    def _take(self, words: bytes) -> bool:
        """Whether anything waits for the disk now."""
        if self._dropped:
            return False
        self._tail += words
        while len(self._tail) > WORDS_A_PART:
            if self._number == MAX_PARTS - 1:
                self._dropped = True
                self._tail[WORDS_A_PART - len(_DROPPED) :] = _DROPPED
                break
            self._put(Part.WHOLE)
        return True

    def _put(self, kind: Part) -> None:
        words = bytes(self._tail[:WORDS_A_PART])
        place = self._begin + (1 + self._number) * BLOCK_BYTES
        self._write(place, self._sealer.part(self._number, words, kind))
        if kind is Part.WHOLE:
            del self._tail[:WORDS_A_PART]
            self._number += 1

    def _write(self, place: int, block: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk is the host's doing, and no reason to stop training
            os.pwrite(self._file, block, place)
