"""Plans that share a host: a run with a thousand waiting workers does not starve a run of three. Counted, not timed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from secrets import token_bytes
from typing import Any

import pytest

from coordinator.host.fair_queue import FairPlaces, FairQueue
from coordinator.host.pace import Pace
from coordinator.host.turns import Turns
from protos.v1 import cloister_pb2
from tests.host.conftest import OTHER_PLAN, PLAN, RunningHost
from tests.host.processes import until
from tests.host.test_blobs import MIB, name_of, wait_for
from trusted.errors import ProtocolError, Reason

LARGE, SMALL = b"L" * 32, b"S" * 32


def test_plans_are_served_in_turn_and_workers_of_one_in_the_order_they_came() -> None:
    queue: FairQueue[str] = FairQueue()
    for plan, waiter in ((LARGE, "L1"), (LARGE, "L2"), (LARGE, "L3"), (SMALL, "S1"), (b"", "U1"), (SMALL, "S2")):
        queue.add(plan, waiter)
    served = []
    while queue:
        served.append(queue.next())
    assert served == ["L1", "S1", "U1", "L2", "S2", "L3"]
    with pytest.raises(LookupError):
        queue.next()


def test_who_gives_up_waiting_moves_nobody_else() -> None:
    queue: FairQueue[str] = FairQueue()
    for plan, waiter in ((LARGE, "L1"), (LARGE, "L2"), (SMALL, "S1"), (LARGE, "L3")):
        queue.add(plan, waiter)
    queue.remove(LARGE, "L2")
    queue.remove(SMALL, "S1")
    queue.remove(SMALL, "S1")
    assert [queue.next(), queue.next()] == ["L1", "L3"]
    assert not queue


async def test_a_place_that_is_handed_to_one_who_gives_up_just_then_goes_to_the_next() -> None:
    places = FairPlaces(1)
    await places.acquire(LARGE)
    first, second = (asyncio.create_task(places.acquire(plan)) for plan in (LARGE, SMALL))
    await asyncio.sleep(0)
    places.release()
    first.cancel()  # it has the place, and does not know
    await asyncio.wait_for(second, 5)
    assert first.cancelled()
    places.release()
    assert not places.locked()
    cancelled = [asyncio.create_task(places.acquire(LARGE)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    places.release()
    await asyncio.wait_for(places.acquire(SMALL), 5)


async def shares_before(ends: bytes, *, named: bool) -> dict[bytes, int]:
    """Shares of 8 MiB that each plan has had when all streams of ``ends`` are through: 1000 of one, 3 of another."""
    turns, counts = Turns(4, 120.0), {LARGE: 0, SMALL: 0}

    async def messages(plan: bytes) -> AsyncIterator[int]:
        for _ in range(8):
            await asyncio.sleep(0)
            counts[plan] += 1
            yield 2 * MIB

    async def stream(plan: bytes) -> None:
        async with turns.turn(plan if named else b"") as turn:
            taken = messages(plan)
            while (size := await turn.move(anext(taken, None))) is not None:
                turn.used(size)

    many = [asyncio.create_task(stream(LARGE)) for _ in range(1000)]
    await asyncio.sleep(0)
    few = [asyncio.create_task(stream(SMALL)) for _ in range(3)]
    await asyncio.wait_for(asyncio.gather(*(few if ends == SMALL else many)), 60)
    for task in many:
        task.cancel()
    await asyncio.gather(*many, return_exceptions=True)
    return {plan: count // 4 for plan, count in counts.items()}


async def test_a_run_of_three_beside_a_run_of_a_thousand_has_a_place_in_two() -> None:
    shares = await shares_before(SMALL, named=True)
    assert shares[SMALL] == 6
    assert shares[LARGE] <= 6 + 2 * 4  # one for one, and what had begun


async def test_streams_that_name_no_plan_wait_in_one_line() -> None:
    """What fairness is measured against: as one plan, the three wait behind the thousand."""
    assert (await shares_before(SMALL, named=False))[LARGE] >= 1000


def test_uploads_of_two_plans_alternate_at_a_real_host(make_host: Callable[..., RunningHost]) -> None:
    """One place; eighty workers of one plan wait before three of the other come. The order of arrivals is counted."""
    host = make_host(uploads=1, streams_per_peer=1000)
    many, few = host.door(PLAN), host.door(OTHER_PLAN)
    data, order = token_bytes(1000), list[bytes]()
    dialers = {PLAN: host.dialer(PLAN), OTHER_PLAN: host.dialer(OTHER_PLAN)}
    others = [host.dialer(PLAN) for _ in range(4)]  # a connection has so many streams and no more
    gate, opened = many.expect(10_000), threading.Event()

    def held() -> Iterator[Any]:  # has the only place for as long as it moves
        yield cloister_pb2.PutChunk(name=name_of(gate), data=b"x")
        while not opened.wait(0.02):
            yield cloister_pb2.PutChunk(data=b"x")

    def put(number: int, plan: bytes, blob: bytes) -> Any:
        dialer = others[number % 4] if plan == PLAN else dialers[plan]
        chunk = cloister_pb2.PutChunk(name=name_of(blob, plan), data=data)
        call = dialer._blobs.Put.future(iter([chunk]), metadata=(("cloister-plan", plan.hex()),))

        def ended(_: Any) -> None:
            order.append(plan)

        call.add_done_callback(ended)
        return call

    blobs = [(PLAN, many.expect(len(data))) for _ in range(80)] + [
        (OTHER_PLAN, few.expect(len(data))) for _ in range(3)
    ]
    for _, blob in blobs[:80]:
        wait_for(dialers[PLAN], blob)
    few.event(event="round-opened")  # the host knows the run
    until(lambda: len(host.client().runs()) == 2)
    first = dialers[PLAN]._blobs.Put.future(held())
    wait_for(dialers[PLAN], gate, 1)
    calls = [put(number, plan, blob) for number, (plan, blob) in enumerate(blobs)]
    until(lambda: host.metric("cloister_open_calls") >= 84)
    opened.set()
    for call in (first, *calls):
        assert call.result(timeout=30).received_bytes > 0
    until(lambda: len(order) == 83)
    assert max(at for at, plan in enumerate(order) if plan == OTHER_PLAN) < 20


async def test_one_byte_a_second_is_waited_for_shorter_each_time_and_ended() -> None:
    turns, waits = Turns(1, 1.2, floor_bytes=1000), []

    async def crawl() -> AsyncIterator[int]:
        while True:
            started = asyncio.get_running_loop().time()
            while turns.wanted:  # until its turn is taken from it
                await asyncio.sleep(0.001)
            waits.append(asyncio.get_running_loop().time() - started)
            yield 1

    async def upload() -> None:
        async with turns.turn() as turn:
            messages = crawl()
            while True:
                turn.used(await turn.move(anext(messages)))

    with pytest.raises(ProtocolError) as caught:
        await asyncio.wait_for(upload(), 20)
    assert caught.value.reason is Reason.UNREACHABLE
    assert not turns.wanted
    assert waits[0] > 0.4
    assert waits[4] < 0.1


def test_pace_counts_what_a_peer_had_for_itself() -> None:
    pace = Pace(10.0, 1000)
    pace.moved(1000)
    pace.spent(10.0)
    pace.moved(999)
    pace.spent(9.9)
    with pytest.raises(ProtocolError) as caught:
        pace.spent(0.1)
    assert caught.value.reason is Reason.UNREACHABLE
