"""``python -m tests.faults.named_cases [CASE…]``: what cost others a run, replayed. As :mod:`tests.faults.networks`."""

from __future__ import annotations

import hashlib
import sqlite3
import sys
from contextlib import closing, suppress
from typing import Any

from tests.faults.networks import TIMEOUT_S, Cases, Networked, finish, report
from tests.faults.processes import HOST
from tests.faults.relay import Deed, Link, Tampering, Way
from tests.faults.running import Running
from tests.faults.schedules import Schedule
from tests.faults.wires import Weather
from tests.faults.work import work_of
from trusted.blob import BlobKind
from trusted.exchange import Exchanged

_NEVER_AGAIN = Schedule("-", 0, "gone for good", (), pauses_s=(1e9,))
_AT_ONCE = Schedule("-", 0, "back at once", (), pauses_s=(1.0,))
_FRAMES = tuple(Tampering(Link.DOOR, Way.DOWN, nth, Deed.DROP) for nth in (9, 14, 19, 24))


class NamedCases(Cases):
    """Each is told in two lines where it is tested."""

    def mediswarm_346(self) -> dict[str, Any]:
        with self._run("small", training_s=2.0) as run:
            run.until("round-opened", 2)
            wire = run.wires["site-2"]
            wire.spoil(Weather(swallows=True))
            wire.forget()
            run.pause(3.0)
            wire.spoil(Weather())
            ended = finish(run)
        return self._same_as_calm("small", ended)

    def mediswarm_466(self) -> dict[str, Any]:
        with Running(self._federation("small"), Schedule("466", 0, "frames", _FRAMES)) as run:
            ended = run.to_the_end(TIMEOUT_S)
            work = work_of({name: run.log(name) for name in run.federation.members}, ended.rounds)
            lost = sum(run.log(name).read_text().count('"session-lost"') for name in run.federation.members)
        return {"sessions_lost": lost, "rounds": ended.rounds, "run_s": round(ended.seconds, 1), **work.told()}

    def flip_684(self) -> dict[str, Any]:
        with self._run("medium", training_s=0.5) as run:
            wire, size = run.wires["site-3"], _update_bytes(run)
            run.until("round-opened")
            begun = wire.carried()["up"]
            wire.spoil(Weather(delay_s=0.25))
            run.wait_until(lambda: _arrived(run, size) == len(run.wires), TIMEOUT_S, "all updates are at the host")
            wire.spoil(Weather(swallows=True))  # while the answer is on its way
            wire.forget()
            run.pause(2.0)
            wire.spoil(Weather())
            run.until("round-committed", round=1)
            sent = wire.carried()["up"] - begun
            ended = finish(run)
        return {"blob": size, "sent": sent, **self._same_as_calm("medium", ended)}

    def flip_763(self) -> dict[str, Any]:
        with self._run("short", schedule=_NEVER_AGAIN) as run:
            run.until("round-committed", round=1)
            run.kill("site-3")
            ended = finish(run, without=("site-3",))
        return {"rounds": ended.rounds, **ended.work.told()}

    def flip_992(self) -> dict[str, Any]:
        late = ("site-2", "site-3")
        with self._run("small", without=late) as run:
            run.until("run-waits", outcome="witnesses")
            run.until("admitted", member="site-1")
            waited_for = run.status().waiting_for
            run.pause(2.0)
            for name in late:
                run.start(name)
            ended = finish(run)
        return {"waited_for": waited_for, **self._same_as_calm("small", ended)}

    def nvflare_4209(self) -> dict[str, Any]:
        away = ("site-3",)
        with self._run("short", without=away) as run:
            ended = finish(run, without=away)
        return {"rounds": ended.rounds, **ended.work.told()}

    def mediswarm_449(self) -> dict[str, Any]:
        with self._run("small", training_s=1.0, schedule=_AT_ONCE) as run:
            run.until("round-opened")
            before = hashlib.sha256(run.site.ca.read_bytes()).hexdigest()
            run.kill(HOST)
            run.wait_until(lambda: run.lives[HOST] == 2, TIMEOUT_S, "the host comes back")
            ended = finish(run)
            after = hashlib.sha256(run.site.ca.read_bytes()).hexdigest()
        return {"same_ca": before == after, **self._same_as_calm("small", ended)}


def _update_bytes(run: Networked) -> int:
    plan = run.federation.plan
    return Exchanged.of(plan).header(BlobKind.UPDATE, 1, "site-3").sealed_bytes


def _arrived(run: Networked, size_bytes: int) -> int:
    """How many updates of ``size_bytes`` the host holds whole, by its own books."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{run.books}?mode=ro", uri=True, timeout=1)) as db:
        found = db.execute(
            "SELECT COUNT(*) FROM blobs WHERE total_bytes = ? AND received_bytes = total_bytes", (size_bytes,)
        ).fetchone()
        return int(found[0])
    return 0


CASES = (
    "mediswarm_346",
    "mediswarm_466",
    "flip_684",
    "flip_763",
    "flip_992",
    "nvflare_4209",
    "mediswarm_449",
)


def main(arguments: list[str]) -> int:
    """0 when all passed."""
    return report(NamedCases(scaled=True), arguments or CASES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
