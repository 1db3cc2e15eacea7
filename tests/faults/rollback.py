"""``python -m tests.faults.rollback``: hosts that restore, fork, swap, delete and hold back; a JSON line for each.

A process shell that forks. What such a host gives is refused and named, nothing of the run moves meanwhile, and once
the right disk is back the run ends with the model of the undisturbed run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.__main__ import TIMEOUT_S
from tests.faults.federation import Federation
from tests.faults.processes import AGGREGATOR, HOST, fork
from tests.faults.running import Ended, Running
from tests.faults.schedules import UNDISTURBED
from trusted.blob import BlobKind
from trusted.documents.terms import Deadlines
from trusted.exchange import Exchanged

_ROUNDS = 3
_TRAINING_S = 0.8
_REFUSED_S = 30.0
_STATE, _SEGMENT = b"cloister/run-state/v1", b"cloister/ledger-segment/v1"


class Case(Running):
    """A run whose host's operator has the disk in their hands."""

    @property
    def disk(self) -> Path:
        """The host's state folder."""
        return self.site.folder / "host"

    def seen(self, event: str) -> list[dict[str, Any]]:
        """What the host stored of this event, on this disk."""
        return [told for told in self.events() if told["event"] == event]

    def wait_for(self, event: str, count: int = 1, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """The ``count``-th such event."""
        self.wait_until(lambda: len(self.seen(event)) >= count, timeout_s, event)
        return self.seen(event)[count - 1]

    def stop(self, *names: str) -> None:
        """``kill -9``, and not started again before :meth:`start`."""
        self.kill(*names)
        self._due = [entry for entry in self._due if entry[1] not in names]

    def restart_on(self, disk: Path | None) -> None:
        """Host and aggregator die and come back; meanwhile ``disk`` takes the place of theirs, which lies aside."""
        self.stop(HOST, AGGREGATOR)
        if disk is not None:
            self.disk.rename(self.site.folder / "aside")
            shutil.copytree(disk, self.disk, ignore=shutil.ignore_patterns("door"))
        self.start(HOST)
        self.start(AGGREGATOR)

    def right_disk_again(self) -> None:
        """The operator finds it."""
        self.stop(HOST)
        shutil.rmtree(self.disk)
        (self.site.folder / "aside").rename(self.disk)
        self.start(HOST)

    def order_again(self) -> None:
        """A member signs another order: that of before is gone with the disk."""
        self.living["order"] = fork("order", 2, self.log("order"), self._order)

    def snapshot(self) -> Path:
        """A copy of the disk as it is now."""
        self.stop(HOST)
        copy = self.site.folder / "snapshot"
        shutil.copytree(self.disk, copy, ignore=shutil.ignore_patterns("door"))
        self.start(HOST)
        return copy

    def blobs(self, label: bytes) -> list[Path]:
        """Files of the spool that begin so, the oldest first; the host may take any away meanwhile."""
        found = []
        for path in (self.disk / "blobs").rglob("*"):
            with suppress(OSError):
                if label in path.read_bytes()[:900]:
                    found.append((path.stat().st_mtime_ns, path))
        return [path for _, path in sorted(found)]

    def moved(self) -> list[str]:
        """What no run does on a disk that was refused."""
        forbidden = {"round-opened", "round-committed", "initial-model", "recovered", "released"}
        behind = [told["event"] for told in self.events()]
        start = max((place for place, event in enumerate(behind) if event == "state-refused"), default=0)
        return [event for event in behind[start:] if event in forbidden]

    def finish(self) -> Ended:
        """To the end, with everybody started already."""
        return self.to_the_end(TIMEOUT_S, started=True)


def _refused(case: Case) -> dict[str, Any]:
    told = case.wait_for("state-refused", timeout_s=_REFUSED_S)
    case.wait_until(_after(2.0), 10, "a while")
    return {name: told.get(name) for name in ("reason", "held", "offered")} | {"moved": case.moved()}


def _after(seconds: float) -> Callable[[], bool]:
    deadline = time.monotonic() + seconds
    return lambda: time.monotonic() >= deadline


def old_disk(case: Case, _: Federation) -> dict[str, Any]:
    """The disk of the first round, restored in the third."""
    case.start_all()
    case.wait_for("round-committed")
    older = case.snapshot()
    case.wait_for("round-opened", 3)
    case.restart_on(older)
    said = _refused(case)
    case.right_disk_again()
    return said


def deleted_state(case: Case, _: Federation) -> dict[str, Any]:
    """An empty disk: no second run begins."""
    case.start_all()
    case.wait_for("round-opened", 2)
    empty = case.site.folder / "empty"
    empty.mkdir()
    case.restart_on(empty)
    case.order_again()
    said = _refused(case)
    case.right_disk_again()
    return said


def withheld_checkpoint(case: Case, _: Federation) -> dict[str, Any]:
    """All is there but the newest segment of the log, which witnesses cosigned."""
    case.start_all()
    case.wait_for("round-opened", 3)
    case.wait_until(_after(0.4), 10, "it is witnessed")
    case.stop(HOST, AGGREGATOR)
    newest = case.blobs(_SEGMENT)[-1]
    kept = newest.read_bytes()
    newest.unlink()
    case.start(HOST)
    case.start(AGGREGATOR)
    said = _refused(case)
    case.stop(HOST)
    newest.write_bytes(kept)
    case.start(HOST)
    return said


def state_of_another_plan(case: Case, federation: Federation) -> dict[str, Any]:
    """What another run sealed, in the place of this one's state."""
    with Case(_another(), UNDISTURBED, training_s=_TRAINING_S) as other:
        other.start_all()
        other.wait_for("round-opened", 2)
        theirs = other.blobs(_STATE)[-1].read_bytes()
    case.start_all()
    case.wait_for("round-opened", 2)
    case.stop(HOST, AGGREGATOR)
    ours = {path: path.read_bytes() for path in case.blobs(_STATE)}
    for path, content in ours.items():
        path.write_bytes(theirs.ljust(len(content), b"\0")[: len(content)])
    case.start(HOST)
    case.start(AGGREGATOR)
    said = _refused(case)
    case.stop(HOST)
    for path, content in ours.items():
        path.write_bytes(content)
    case.start(HOST)
    return said


def two_forks(case: Case, federation: Federation) -> dict[str, Any]:
    """A second host with a copy of the disk and an aggregator of its own takes one of three sites aside."""
    case.start_all()
    case.wait_for("round-opened", 2)
    lost = federation.members[-1]
    copy = case.snapshot()
    with Case(federation, UNDISTURBED, training_s=_TRAINING_S) as fork_:
        case.stop(lost)
        shutil.copytree(copy, fork_.disk)
        shutil.copytree(case.site.folder / f"state-{lost}", fork_.site.folder / f"state-{lost}")
        fork_.start_relay()
        for name in (HOST, AGGREGATOR, lost):
            fork_.start(name)
        before = len(fork_.events())
        fork_.wait_until(lambda: _waits(fork_, before), _REFUSED_S, "the fork waits")
        fork_.wait_until(_after(3.0), 10, "a while")
        told = fork_.events()[before:]
        said = {"waits": _waits(fork_, before), "moved": [e["event"] for e in told if e["event"] in _PROGRESS]}
        fork_.stop(lost)
        shutil.rmtree(case.site.folder / f"state-{lost}")
        shutil.copytree(fork_.site.folder / f"state-{lost}", case.site.folder / f"state-{lost}")
    case.start(lost)
    return said


_PROGRESS = {"round-opened", "round-committed", "recovered", "released", "run-ended"}


def _waits(case: Case, before: int) -> list[str]:
    waits = [told for told in case.events()[before:] if told["event"] == "run-waits" and told["outcome"] == "witnesses"]
    return sorted(waits[-1]["waiting_for"]) if waits else []


def replayed_fold(case: Case, federation: Federation) -> dict[str, Any]:
    """The update that a site sent in the first round, in the place of its second."""
    case.start_all()
    member = federation.members[1]
    case.wait_until(lambda: bool(_updates(case, member, 1)), TIMEOUT_S, "the first update")
    first = next(iter(_updates(case, member, 1).values()))
    case.wait_for("round-opened", 2)
    case.wait_until(_after(0.3), 10, "everybody has the task")
    aggregator = case.living[AGGREGATOR].pid
    os.kill(aggregator, signal.SIGSTOP)  # it reads no update before the host has exchanged it
    try:
        case.wait_until(lambda: bool(_updates(case, member, 2)), TIMEOUT_S, "the second update")
        for path in _updates(case, member, 2):
            path.write_bytes(first)
    finally:
        os.kill(aggregator, signal.SIGCONT)
    case.wait_for("round-committed", 2)
    about = [told for told in case.seen("contribution") if told["round"] == 2 and told["member"] == member]
    return {"outcome": about[-1]["outcome"], "reason": about[-1].get("reason")}


def _updates(case: Case, member: str, number: int) -> dict[Path, bytes]:
    """The whole updates of ``member`` in a round, where they lie."""
    size = Exchanged.of(case.federation.plan).header(BlobKind.UPDATE, number, member).sealed_bytes
    marks = (f'"sender":"{member}"'.encode(), f'"round":{number}'.encode(), b'"update"')
    found = {}
    for path in case.blobs(marks[0]):
        with suppress(OSError):
            data = path.read_bytes()
            if len(data) == size and all(mark in data[:900] for mark in marks):
                found[path] = data
    return found


CASES: dict[str, Callable[[Case, Federation], dict[str, Any]]] = {
    "old disk": old_disk,
    "deleted state": deleted_state,
    "withheld checkpoint": withheld_checkpoint,
    "state of another plan": state_of_another_plan,
    "two forks": two_forks,
    "replayed fold": replayed_fold,
}


def _another() -> Federation:
    return Federation.found(rounds=_ROUNDS, name="another")


def main(names: list[str]) -> int:
    """Run the cases of these names, or all."""
    federation = Federation.found(rounds=_ROUNDS, deadlines=Deadlines(round_s=600, lease_s=120, reattest_s=3))
    with Case(federation, UNDISTURBED) as undisturbed:
        expected = undisturbed.to_the_end(TIMEOUT_S)
    for name in names or CASES:
        with Case(federation, UNDISTURBED, training_s=_TRAINING_S) as case:
            said = CASES[name](case, federation)
            ended = case.finish()
        said |= {"case": name, "same": ended.model_sha256 == expected.model_sha256, "rounds": len(ended.rounds)}
        print(json.dumps(said), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
