"""The host's wall clock jumps by years: what is timed goes on, what is dated says so, until the clock is back."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.door import DoorKind
from tests.host.conftest import PLAN, RunningHost, signed_order
from tests.host.test_blobs import MIB, refused, wait_for
from tests.host.test_relay import WELCOME
from tests.world import NOW
from trusted.errors import Reason

HOST = Path(__file__).parent.parent.parent / "coordinator" / "host"
_WALL_CLOCK = {"server.py", "events.py"}  # orders, certificates and the times in events; log lines


class Clock:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize(
    ("years", "reason"), [(20, Reason.DOCUMENT_EXPIRED), (-20, Reason.DOCUMENT_NOT_YET_VALID)], ids=["ahead", "back"]
)
def test_a_clock_that_jumps_by_years_disturbs_no_session_and_no_transfer(
    make_host: Callable[..., RunningHost], years: int, reason: Reason
) -> None:
    host = make_host(handshake_s=30.0, stall_s=30.0)
    clock = Clock()
    host.stop()
    host.clock = clock
    host.start()
    peer, dialer, data = host.door(), host.dialer(), token_bytes(2 * MIB)
    stream = dialer.attach()
    session = peer.next(DoorKind.ATTACHED).channel
    peer.control.send(DoorKind.FRAME, session, WELCOME)
    assert stream.receive(timeout=5) == WELCOME
    waiting = host.dialer().attach()  # not admitted: its handshake has 30 seconds, and not 20 years
    peer.next(DoorKind.ATTACHED)
    blob = peer.expect(len(data))
    wait_for(dialer, blob)

    clock.now = NOW + timedelta(days=365 * years)
    dialer.put_blob(blob, data)
    assert b"".join(host.dialer().get_blob(blob)) == data
    assert peer.next(DoorKind.ARRIVED).body == blob
    peer.control.send(DoorKind.FRAME, session, b"still here")
    assert stream.receive(timeout=5) == b"still here"
    with pytest.raises(TimeoutError):
        waiting.receive(timeout=0.3)
    order = signed_order(host.world)
    assert refused(lambda: host.client().submit(order)) is reason
    peer.control.send(DoorKind.EVENT, 1, b'{"event":"round-opened"}')
    peer.next(DoorKind.RECORDED)

    clock.now = NOW
    host.client().submit(order)  # it was never honoured, and is fresh again
    assert refused(lambda: host.client().submit(order)) is Reason.ORDER_REPLAYED
    assert [event.number for event in itertools.islice(host.client().watch(PLAN), 3)] == [1, 2, 3]


def test_an_order_is_not_honoured_again_by_setting_the_clock_back(make_host: Callable[..., RunningHost]) -> None:
    host = make_host()
    order = signed_order(host.world)
    host.client().submit(order)
    host.stop()
    again = make_host()  # at the time at which it was fresh
    assert refused(lambda: again.client().submit(order)) is Reason.ORDER_REPLAYED


def test_only_these_files_of_the_host_look_at_the_wall_clock() -> None:
    """Whatever is added: a lease, a turn or a limit by wall-clock time would fail with the clock."""
    found = set()
    for path in HOST.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                named = (node.value.id, node.attr)
                if (
                    named in {("datetime", "now"), ("datetime", "fromtimestamp"), ("time", "time")}
                    or named[1] == "utcnow"
                ):
                    found.add(path.name)
    assert found == _WALL_CLOCK
