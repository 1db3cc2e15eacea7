"""The runtime's port over real gRPC: limits, slow readers, an end that loses no answer. The client is the console's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import grpc.aio
import numpy as np
import pytest

from console.scoring_client import ScoringClient, Wanted
from coordinator.host.tls import server_identity
from protos.v1 import scoring_pb2, scoring_pb2_grpc
from recipient.limits import ServiceLimits
from recipient.port import Address, Clocks, ScoringService, open_port
from tests.scoring.sides import ROWS, Service, asker, served
from tests.world import NOW
from trusted.channel.refusal import PeerRefused, read_refusal
from trusted.errors import ProtocolError, Reason, RunError
from trusted.scoring.client import ClientSession
from trusted.wire import MAX_RECORD_BYTES, pack
from worker.grpc_channel import HostAddress

LIMITS = ServiceLimits()


class Port:
    """A runtime that serves on loopback, and its clients."""

    def __init__(self, world, inside: Service, service: ScoringService, number: int) -> None:
        self.world, self.inside, self.service = world, inside, service
        self.target = f"http://127.0.0.1:{number}"

    def client(self) -> ScoringClient:
        return ScoringClient(HostAddress(self.target, None), Wanted(self.world.federation))

    def scores(self, rows=ROWS):
        with self.client() as client:
            client.prove()
            client.admit(asker(self.world))
            return client.score(rows)

    async def raw(self, *frames: bytes, timeout_s: float = 10) -> list[bytes]:
        """What answers to frames that no client of ours would send."""
        options = [("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(self.target.removeprefix("http://"), options=options) as channel:
            stream = scoring_pb2_grpc.ScoringStub(channel).Attach(timeout=timeout_s)
            for frame in frames:
                await stream.write(scoring_pb2.ScoringFrame(data=frame))
            answers = []
            async for message in stream:
                answers.append(message.data)
            return answers


@asynccontextmanager
async def serving(world, limits: ServiceLimits = LIMITS, **inside) -> AsyncIterator[Port]:
    runtime = Service(world, **inside)
    clocks = Clocks(lambda: runtime.now, lambda: runtime.counted_s)
    said = replace(served(world), require_open=lambda: runtime.desk.tenure.require(runtime.now, runtime.counted_s))
    async with AsyncExitStack() as stack:
        service = ScoringService(said, runtime.desk, clocks, limits, runtime._note)
        number = await open_port(service, Address("http://127.0.0.1:0", b"", b""), limits, stack)
        yield Port(world, runtime, service, number)


async def refused(call, *arguments) -> Reason:
    """Why; of a refusal that came outside a session, what it hinted."""
    with pytest.raises(ProtocolError) as caught:
        await asyncio.to_thread(call, *arguments)
    error = caught.value
    return error.peer_reason if isinstance(error, PeerRefused) else error.reason


@pytest.fixture
def at_present(monkeypatch) -> None:
    """The console's clock is the world's."""
    monkeypatch.setattr("console.scoring_client.present", lambda: NOW)


pytestmark = pytest.mark.usefixtures("at_present")


async def test_several_clients_are_answered_each_its_own(world):
    async with serving(world) as port:
        answers = await asyncio.gather(*(asyncio.to_thread(port.scores, ROWS + n) for n in range(4)))
    for number, scores in enumerate(answers):
        np.testing.assert_array_equal(scores[:, 0], ROWS[:, 0] + number)


async def test_a_session_outlives_a_refused_request(world):
    def asked():
        with port.client() as client:
            client.prove()
            client.admit(asker(world))
            with pytest.raises(ProtocolError):
                client.score(ROWS * np.nan)
            return client.score(ROWS)

    async with serving(world) as port:
        assert (await asyncio.to_thread(asked)).shape == (6, 2)


async def test_a_member_who_is_no_recipient_is_told_a_number_and_nothing_is_scored(world):
    def asked():
        with port.client() as client:
            client.prove()
            client.admit(asker(world, "site-2"))

    async with serving(world) as port:
        assert await refused(asked) is Reason.SCORING_CLIENT
        assert port.inside.formula.asked == []
        assert {line["event"] for line in port.inside.lines} == {"session-refused"}


@pytest.mark.parametrize(
    "frame", [b"", b"nothing", pack("cloister/record/v1", b"", b"")], ids=["none", "noise", "early"]
)
async def test_what_is_no_question_ends_the_stream_with_a_number(world, frame):
    async with serving(world) as port:
        (answer,) = await port.raw(frame)
        assert read_refusal(answer).peer_reason in {Reason.MALFORMED, Reason.UNEXPECTED_MESSAGE}


async def test_an_oversized_frame_is_refused_before_it_is_parsed(world):
    async with serving(world) as port:
        (answer,) = await port.raw(bytes(MAX_RECORD_BYTES + 1))
        assert read_refusal(answer).peer_reason is Reason.TOO_LARGE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await port.raw(bytes(2 * MAX_RECORD_BYTES))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_who_says_nothing_is_sent_away(world):
    async with serving(world, replace(LIMITS, handshake_s=0.1, idle_s=0.1)) as port:
        (answer,) = await port.raw()
        assert read_refusal(answer).peer_reason is Reason.HANDSHAKE_TIMEOUT
        _, answer = await port.raw(ClientSession(world.federation).begin())
        assert read_refusal(answer).peer_reason is Reason.HANDSHAKE_TIMEOUT


async def test_evidence_is_not_made_without_end(world):
    """The clock of this runtime stands still: a bucket that is empty stays so."""
    async with serving(world, replace(LIMITS, proofs_at_once=2)) as port:
        for _ in range(2):
            await asyncio.to_thread(port.scores)
        assert await refused(port.scores) is Reason.QUOTA
        port.inside.counted_s += 1
        await asyncio.to_thread(port.scores)


async def test_so_many_sessions_and_no_more(world):
    async with serving(world, replace(LIMITS, sessions=1)) as port:
        with port.client() as client:
            await asyncio.to_thread(client.prove)
            assert await refused(port.scores) is Reason.QUOTA


async def test_a_reader_that_takes_nothing_is_cut_off(world):
    class Stuck:
        async def write(self, message):
            await asyncio.sleep(60)

    async with serving(world, replace(LIMITS, stall_s=0.05)) as port:
        with pytest.raises(asyncio.CancelledError):
            await port.service._say(Stuck(), b"frame")


async def test_after_its_grant_no_evidence_is_given_and_no_question_is_answered(world):
    async with serving(world) as port:
        with port.client() as client:
            await asyncio.to_thread(client.prove)
            await asyncio.to_thread(client.admit, asker(world))
            port.inside.now = NOW + timedelta(hours=1)
            assert await refused(client.score, ROWS) is Reason.GRANT_EXPIRED
        assert await refused(port.scores) is Reason.GRANT_EXPIRED
        assert port.inside.formula.wiped == 1


async def test_the_model_goes_when_nobody_asks_too(world):
    async with serving(world) as port:
        await port.service.checked()
        assert port.inside.formula.wiped == 0
        port.inside.counted_s += 71
        await port.service.checked()
        assert port.inside.formula.wiped == 1


async def test_a_revocation_waits_for_the_answer_under_way_and_no_other(world):
    async with serving(world) as port:
        begun, goes_on = threading.Event(), threading.Event()
        score = port.inside.formula.score

        def slow(values, timeout_s):
            begun.set()
            goes_on.wait(10)
            return score(values, timeout_s)

        port.inside.formula.score = slow
        first = asyncio.create_task(asyncio.to_thread(port.scores))
        await asyncio.to_thread(begun.wait, 10)
        ending = asyncio.create_task(port.service.end(Reason.GRANT_REVOKED))
        await asyncio.sleep(0)
        assert port.inside.formula.wiped == 0
        goes_on.set()
        assert (await first).shape == (6, 2)
        await ending
        assert port.inside.formula.wiped == 1
        assert await refused(port.scores) is Reason.GRANT_REVOKED


async def test_a_stopping_service_gives_the_answer_under_way_and_takes_nothing_new(world):
    async with serving(world) as port:
        begun, goes_on = threading.Event(), threading.Event()
        score = port.inside.formula.score

        def slow(values, timeout_s):
            begun.set()
            goes_on.wait(10)
            return score(values, timeout_s)

        port.inside.formula.score = slow
        with port.client() as idle:
            await asyncio.to_thread(idle.prove)
            first = asyncio.create_task(asyncio.to_thread(port.scores))
            await asyncio.to_thread(begun.wait, 10)
            port.service.drain()
            assert await refused(port.scores) is Reason.SCORING_DRAINS
            assert await refused(idle.admit, asker(world)) is Reason.SCORING_DRAINS
            goes_on.set()
            assert (await first).shape == (6, 2)


async def test_a_port_with_a_certificate_is_dialled_by_its_ca_alone(world, tmp_path):
    identity = server_identity(tmp_path, ("127.0.0.1",), datetime.now(UTC))
    async with serving(world) as port, AsyncExitStack() as stack:
        address = Address("127.0.0.1:0", identity.key_pem, identity.chain_pem)
        number = await open_port(port.service, address, LIMITS, stack)

        def proved(ca_pem: bytes | None) -> str:
            wanted = Wanted(world.federation)
            with ScoringClient(HostAddress(f"127.0.0.1:{number}", ca_pem), wanted) as client:
                return client.prove().result.assurance.value

        assert await asyncio.to_thread(proved, identity.ca_pem) == "none"
        assert await refused(proved, None) is Reason.UNREACHABLE
        assert identity.key_pem.decode() not in repr(address)


@pytest.mark.parametrize("listen", ["http://0.0.0.0:0", "http://192.0.2.1:8446", "http://example.org:1"])
async def test_plaintext_is_listened_to_on_loopback_alone(listen):
    with pytest.raises(RunError) as caught:
        Address(listen, b"", b"").add_to(grpc.aio.server())
    assert caught.value.reason is Reason.MALFORMED


async def test_a_port_that_is_taken_is_an_error(world):
    async with serving(world) as port, AsyncExitStack() as stack:
        with pytest.raises(RunError) as caught:
            await open_port(port.service, Address(port.target, b"", b""), LIMITS, stack)
        assert caught.value.reason is Reason.UNREACHABLE


def test_a_service_that_cannot_be_reached_is_said_so(world):
    with ScoringClient(HostAddress("http://127.0.0.1:9", None), Wanted(world.federation)) as client:
        with pytest.raises(RunError) as caught:
            client.prove()
        assert caught.value.reason is Reason.UNREACHABLE
