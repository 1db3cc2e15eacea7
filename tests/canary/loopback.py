"""Every TCP byte on the loopback interface, as tcpdump would see it (packet(7)). For root alone."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_OUTGOING = 263, 6, 4
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 256 << 20
_MAX_FRAME = 1 << 20
_TCP = 6


def capture_possible() -> bool:
    """Whether this user may open a packet socket."""
    try:
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)).close()
    except PermissionError:
        return False
    return True


class LoopbackCapture:
    """TCP payloads on ``lo``, put together for each direction of each connection. Used in a ``with`` block."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.settimeout(0.2)
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._flows: dict[str, bytearray] = {}
        self._thread = threading.Thread(target=self._read, name="loopback", daemon=True)
        self.dropped = 0

    def __enter__(self) -> LoopbackCapture:
        self._socket.bind(("lo", _ETH_P_ALL))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)
        self._socket.close()

    def captured(self) -> dict[str, bytes]:
        """What has been seen so far, by ``source port > target port``; :attr:`dropped` says what was missed."""
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        with self._lock:
            self.dropped += int(struct.unpack("II", statistics)[1])
            return {name: bytes(data) for name, data in self._flows.items()}

    def _read(self) -> None:
        frame = bytearray(_MAX_FRAME)
        while not self._over.is_set():
            try:
                size, _, flags, address = self._socket.recvmsg_into([frame])
            except TimeoutError:
                continue
            if address[2] == _PACKET_OUTGOING:  # loopback shows each packet twice: when it leaves, when it arrives
                continue
            with self._lock:
                if flags & socket.MSG_TRUNC:
                    self.dropped += 1
                self._keep(memoryview(frame)[:size])

    def _keep(self, packet: memoryview) -> None:
        found = _tcp_payload(packet)
        if found is not None:
            name, payload = found
            self._flows.setdefault(name, bytearray()).extend(payload)


def _tcp_payload(packet: memoryview) -> tuple[str, memoryview] | None:
    """The ports and payload of an IPv4 or IPv6 packet that carries TCP (RFC 791, 8200, 9293)."""
    if len(packet) < 40:
        return None
    version = packet[0] >> 4
    if version == 4 and packet[9] == _TCP:
        segment = packet[4 * (packet[0] & 15) :]
    elif version == 6 and packet[6] == _TCP:
        segment = packet[40:]
    else:
        return None
    source, target = struct.unpack_from(">HH", segment)
    return f"{source} > {target}", segment[4 * (segment[12] >> 4) :]
