"""What a host can run short of, told apart by what the system says. Trust zone: host.

A shortage passes: whoever is refused for one tries again, and nothing that was answered before is lost.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, unique

from trusted.errors import Reason, RunError


@unique
class Shortage(Enum):
    """What there is too little of."""

    DISK = "disk"
    DESCRIPTORS = "descriptors"
    MEMORY = "memory"


_BY_ERRNO = {
    errno.ENOSPC: Shortage.DISK,
    errno.EDQUOT: Shortage.DISK,
    errno.EFBIG: Shortage.DISK,
    errno.EMFILE: Shortage.DESCRIPTORS,
    errno.ENFILE: Shortage.DESCRIPTORS,
    errno.ENOMEM: Shortage.MEMORY,
    errno.ENOBUFS: Shortage.MEMORY,
}
_ADVICE = {
    Shortage.DISK: "its disk takes no more; free some space",
    Shortage.DESCRIPTORS: "it may open no more files; raise its limit of descriptors",
    Shortage.MEMORY: "it gets no more memory; give it more, or lower its limits",
}


class HostShort(RunError):
    """HOST_SHORT: the host lacks something now. It goes on by itself when it has it again."""

    def __init__(self, shortage: Shortage) -> None:
        super().__init__(Reason.HOST_SHORT, f"host: {_ADVICE[shortage]}. It goes on by itself; try again")
        self.shortage = shortage


def shortage_of(error: BaseException) -> Shortage | None:
    """What ``error`` says there is too little of; None where it says something else."""
    if isinstance(error, HostShort):
        return error.shortage
    if isinstance(error, MemoryError):
        return Shortage.MEMORY
    return _BY_ERRNO.get(error.errno or 0) if isinstance(error, OSError) else None


@contextmanager
def naming_shortages() -> Iterator[None]:
    """Around calls of the system: an ``OSError`` or ``MemoryError`` that means a shortage is raised as one.

    Raises:
        HostShort: the host lacks something.
    """
    try:
        yield
    except (OSError, MemoryError) as error:
        shortage = shortage_of(error)
        if shortage is None:
            raise
        raise HostShort(shortage) from None
