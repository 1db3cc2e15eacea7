"""Lines of the blob port over real TCP: what is sent arrives, who stands still holds no thread, who breaks is told."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import pytest

from coordinator.host.line import SHARE_BYTES, Line
from coordinator.host.tls import server_identity

MIB = 1 << 20
WAIT_S = 20


def reset(sock: socket.socket) -> None:
    """Hang up without a farewell."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server shows, and what its client trusts."""
    folder = tmp_path_factory.mktemp("tls")
    server_identity(folder, ("localhost",), datetime.now(UTC))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    return server, ssl.create_default_context(cafile=str(folder / "ca.pem"))


class Ends:
    """Makes lines and the peers at their other ends; ``threads`` of them move bytes."""

    def __init__(self, contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None, stack: ExitStack) -> None:
        self.contexts, self.stack = contexts, stack
        self.threads = ThreadPoolExecutor(1)

    def raw(self, *, buffer_bytes: int = 0) -> tuple[Line, socket.socket]:
        """A line whose peer has not said anything yet."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = self.stack.enter_context(socket.socket())
            peer.settimeout(WAIT_S)
            if buffer_bytes:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            peer.connect(listener.getsockname())
            accepted, _ = listener.accept()
        line = Line(accepted, None if self.contexts is None else self.contexts[0], self.threads)
        self.stack.callback(line.close)
        return line, peer

    async def joined(self, *, buffer_bytes: int = 0) -> tuple[Line, socket.socket]:
        """A line and its peer, whose handshake is over."""
        line, peer = self.raw(buffer_bytes=buffer_bytes)
        if self.contexts is None:
            await line.shake_hands()
            return line, peer
        greeting = asyncio.to_thread(self.contexts[1].wrap_socket, peer, server_hostname="localhost")
        sealed, _ = await asyncio.gather(greeting, line.shake_hands())
        return line, self.stack.enter_context(sealed)


@pytest.fixture(params=["tls", "plain"])
def ends(request: pytest.FixtureRequest, identity: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Ends]:
    with ExitStack() as stack:
        made = Ends(identity if request.param == "tls" else None, stack)
        yield made
    made.threads.shutdown()


@pytest.fixture
def sealed(identity: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Ends]:
    """With TLS alone."""
    with ExitStack() as stack:
        made = Ends(identity, stack)
        yield made
    made.threads.shutdown()


def drained(source: Callable[[], memoryview]) -> bytes:
    """All that ``source`` gives until it gives nothing."""
    return b"".join(bytes(piece) for piece in iter(source, b""))


async def take(line: Line, ends: Ends, size: int) -> bytes:
    """``size`` bytes as the blob port takes them: wait in the loop, move in a thread."""
    taken = b""
    loop = asyncio.get_running_loop()
    while len(taken) < size:
        await line.readable()
        taken += await loop.run_in_executor(ends.threads, drained, line.source(size - len(taken)))
    return taken


def received(peer: socket.socket, size: int) -> bytes:
    """The next ``size`` bytes, or fewer where the line ends before."""
    data = bytearray()
    while len(data) < size:
        try:
            got = peer.recv(size - len(data))
        except OSError:  # a reset, and with TLS an end without a farewell
            break
        if not got:
            break
        data += got
    return bytes(data)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(token_bytes(12 * MIB + 5))
    return path


@pytest.mark.parametrize("size", [1, 65_537, SHARE_BYTES + 3])
async def test_what_a_peer_sends_is_taken_unchanged(ends: Ends, size: int) -> None:
    line, peer = await ends.joined()
    data = token_bytes(size)
    sending = asyncio.create_task(asyncio.to_thread(peer.sendall, data))
    assert await asyncio.wait_for(take(line, ends, size), WAIT_S) == data
    await sending


async def test_no_more_is_taken_than_was_asked_for_and_the_rest_is_read_behind_it(ends: Ends) -> None:
    line, peer = await ends.joined()
    await asyncio.to_thread(peer.sendall, b"headBODYnext")
    head = b""
    while len(head) < 4:
        head += await line.read(4 - len(head))
    assert head == b"head"
    assert await take(line, ends, 4) == b"BODY"
    assert await line.read(100) == b"next"


async def test_what_was_read_too_far_comes_first(ends: Ends) -> None:
    line, peer = await ends.joined()
    await asyncio.to_thread(peer.sendall, b"def")
    line.put_back(b"abc")
    await asyncio.wait_for(line.readable(), WAIT_S)
    assert await take(line, ends, 2) == b"ab"
    assert await line.read(1) == b"c"
    line.put_back(b"c")
    assert await take(line, ends, 4) == b"cdef"


async def test_a_line_with_what_was_put_back_is_readable_though_the_peer_says_nothing(ends: Ends) -> None:
    line, _ = await ends.joined()
    line.put_back(b"x")
    await asyncio.wait_for(line.readable(), WAIT_S)
    assert await line.read(9) == b"x"


async def test_a_source_whose_peer_stands_still_gives_nothing_and_its_thread_is_free(ends: Ends) -> None:
    line, _ = await ends.joined()
    got = await asyncio.get_running_loop().run_in_executor(ends.threads, drained, line.source(100))
    assert got == b""
    waiting = asyncio.create_task(line.readable())
    assert await asyncio.get_running_loop().run_in_executor(ends.threads, lambda: "free") == "free"
    assert not waiting.done()
    waiting.cancel()


async def test_what_came_before_the_end_is_taken_and_then_the_line_is_over(ends: Ends) -> None:
    line, peer = await ends.joined()
    await asyncio.to_thread(peer.sendall, b"last words")
    peer.close()
    assert await asyncio.wait_for(take(line, ends, 10), WAIT_S) == b"last words"
    with pytest.raises(EOFError):
        await asyncio.wait_for(take(line, ends, 1), WAIT_S)
    with pytest.raises(EOFError):
        await line.readable()


@pytest.mark.parametrize("hang_up", [reset, socket.socket.close])
async def test_who_reads_hears_that_the_peer_hung_up(ends: Ends, hang_up: Callable[[socket.socket], None]) -> None:
    line, peer = await ends.joined()
    reading = asyncio.create_task(line.read(100))
    await asyncio.sleep(0)
    hang_up(peer)
    with pytest.raises(EOFError):
        await asyncio.wait_for(reading, WAIT_S)


async def test_who_writes_hears_that_the_peer_hung_up(ends: Ends, file: Path) -> None:
    line, peer = await ends.joined(buffer_bytes=4096)
    with file.open("rb") as stored:
        sending = asyncio.create_task(line.write_from(stored, 0, 12 * MIB))
        await asyncio.to_thread(peer.recv, 1)
        reset(peer)
        with pytest.raises(EOFError):
            await asyncio.wait_for(sending, WAIT_S)
    with pytest.raises(EOFError):
        await line.write(b"x")


@pytest.mark.parametrize(
    ("offset", "size"), [(0, 1), (0, 12 * MIB + 5), (MIB - 3, 256 << 10), (5 * MIB, 7 * MIB + 5), (12 * MIB + 4, 1)]
)
async def test_a_part_of_a_file_is_sent_unchanged(ends: Ends, file: Path, offset: int, size: int) -> None:
    line, peer = await ends.joined()
    reading = asyncio.create_task(asyncio.to_thread(received, peer, size))
    with file.open("rb") as stored:
        await asyncio.wait_for(line.write_from(stored, offset, size), WAIT_S)
    assert await reading == file.read_bytes()[offset : offset + size]


async def test_parts_and_words_stand_in_their_order(ends: Ends, file: Path) -> None:
    line, peer = await ends.joined()
    data = file.read_bytes()
    reading = asyncio.create_task(asyncio.to_thread(received, peer, 4 + 3 * MIB + 4))
    with file.open("rb") as stored:
        await line.write(b"head")
        await line.write_from(stored, 0, MIB)
        await line.write_from(stored, MIB, 2 * MIB)
        await line.write(b"tail")
    assert await asyncio.wait_for(reading, WAIT_S) == b"head" + data[: 3 * MIB] + b"tail"


async def test_a_file_that_is_shorter_than_what_is_sent_cuts_the_line(ends: Ends, file: Path) -> None:
    line, peer = await ends.joined()
    reading = asyncio.create_task(asyncio.to_thread(received, peer, 13 * MIB))
    with file.open("rb") as stored, pytest.raises(EOFError):
        await asyncio.wait_for(line.write_from(stored, 0, 13 * MIB), WAIT_S)
    line.close()
    assert await asyncio.wait_for(reading, WAIT_S) == file.read_bytes()


async def test_a_reader_that_does_not_read_holds_no_thread(ends: Ends, file: Path) -> None:
    """There is one thread; two that read nothing stand beside one that reads all."""
    still = [await ends.joined(buffer_bytes=4096) for _ in range(2)]
    line, peer = await ends.joined()
    with file.open("rb") as stored:
        stuck = [asyncio.create_task(other.write_from(stored, 0, 12 * MIB)) for other, _ in still]
        reading = asyncio.create_task(asyncio.to_thread(received, peer, 12 * MIB))
        await asyncio.wait_for(line.write_from(stored, 0, 12 * MIB), WAIT_S)
        data = await reading
        assert data == file.read_bytes()[: 12 * MIB]
        assert not any(task.done() for task in stuck)
        late = asyncio.create_task(asyncio.to_thread(received, still[0][1], 12 * MIB))
        await asyncio.wait_for(stuck[0], WAIT_S)  # when it reads at last, it gets all
        assert await late == data
        stuck[1].cancel()
        await asyncio.gather(stuck[1], return_exceptions=True)


async def test_words_wait_for_a_reader_that_is_behind(ends: Ends) -> None:
    line, peer = await ends.joined(buffer_bytes=4096)
    data = token_bytes(9 * MIB)
    writing = asyncio.create_task(line.write(data))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(received, peer, len(data)) == data
    await asyncio.wait_for(writing, WAIT_S)


async def test_who_breaks_a_line_wakes_who_waits_in_it_and_its_peer(ends: Ends) -> None:
    line, peer = await ends.joined()
    reading = asyncio.create_task(line.read(100))
    await asyncio.sleep(0)
    line.abort()
    with pytest.raises(EOFError):
        await asyncio.wait_for(reading, WAIT_S)
    assert await asyncio.to_thread(received, peer, 1) == b""
    for again in (line.read(1), line.readable(), line.write(b"x")):
        with pytest.raises(EOFError):
            await again


async def test_a_cancelled_transfer_breaks_its_line_and_ends_behind_its_thread(ends: Ends, file: Path) -> None:
    line, _ = await ends.joined(buffer_bytes=4096)
    with file.open("rb") as stored:
        sending = asyncio.create_task(line.write_from(stored, 0, 12 * MIB))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is in its thread
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(sending, WAIT_S)
    with pytest.raises(EOFError):
        await asyncio.wait_for(line.readable(), WAIT_S)
    assert await asyncio.get_running_loop().run_in_executor(ends.threads, lambda: "free") == "free"


async def test_a_line_that_was_closed_is_over(ends: Ends) -> None:
    line, peer = await ends.joined()
    line.close()
    assert await asyncio.to_thread(received, peer, 1) == b""
    for again in (line.read(1), line.readable(), line.write(b"x")):
        with pytest.raises(EOFError):
            await again


async def test_a_peer_is_named_as_grpc_names_it(ends: Ends) -> None:
    line, peer = await ends.joined()
    assert line.peer == f"ipv4:127.0.0.1:{peer.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 on this machine")
async def test_a_peer_of_ipv6_is_named_as_grpc_names_it(ends: Ends) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        peer = ends.stack.enter_context(socket.create_connection(listener.getsockname()[:2]))
        line = Line(listener.accept()[0], None, ends.threads)
    assert line.peer == f"ipv6:[::1]:{peer.getsockname()[1]}"
    line.close()


# TLS


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100])
async def test_a_peer_that_speaks_no_tls_is_hung_up_on(sealed: Ends, said: bytes) -> None:
    line, peer = sealed.raw()
    peer.sendall(said)
    with pytest.raises(EOFError):
        await asyncio.wait_for(line.shake_hands(), WAIT_S)


@pytest.mark.parametrize("hang_up", [reset, socket.socket.close])
async def test_a_peer_that_hangs_up_in_the_handshake_is_an_end(
    sealed: Ends, hang_up: Callable[[socket.socket], None]
) -> None:
    line, peer = sealed.raw()
    greeting = asyncio.create_task(line.shake_hands())
    await asyncio.sleep(0)
    peer.sendall(b"\x16\x03\x01\x02\x00")
    hang_up(peer)
    with pytest.raises(EOFError):
        await asyncio.wait_for(greeting, WAIT_S)


@pytest.mark.parametrize("hang_up", [reset, socket.socket.close])
@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01"])
async def test_a_peer_that_hung_up_before_the_handshake_is_an_end(
    sealed: Ends, hang_up: Callable[[socket.socket], None], said: bytes
) -> None:
    """Such as a scanner of ports, which resets what it has opened."""
    line, peer = sealed.raw()
    peer.sendall(said)
    hang_up(peer)
    with pytest.raises(EOFError):
        await asyncio.wait_for(line.shake_hands(), WAIT_S)


async def test_a_record_that_is_not_whole_yet_is_waited_for(sealed: Ends) -> None:
    """TLS shows nothing of it: a source gives nothing, and the line goes on when the rest is there."""
    line, peer = sealed.raw()
    assert sealed.contexts is not None
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = sealed.contexts[1].wrap_bio(incoming, outgoing, server_hostname="localhost")

    def greet() -> None:
        while True:
            try:
                client.do_handshake()
                return
            except ssl.SSLWantReadError:
                peer.sendall(outgoing.read())
                incoming.write(peer.recv(65_536))
            finally:
                peer.sendall(outgoing.read())

    await asyncio.gather(asyncio.to_thread(greet), line.shake_hands())
    client.write(b"abc")
    record = outgoing.read()
    peer.sendall(record[:-1])
    await asyncio.wait_for(line.readable(), WAIT_S)
    assert await asyncio.get_running_loop().run_in_executor(sealed.threads, drained, line.source(3)) == b""
    reading = asyncio.create_task(line.read(100))
    await asyncio.sleep(0)
    peer.sendall(record[-1:])
    assert await asyncio.wait_for(reading, WAIT_S) == b"abc"
