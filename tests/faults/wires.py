"""A network of its own: a namespace for the host, one for each site, and between them a wire that a test can spoil.

A wire is a process with a TUN device in either namespace, so it needs no kernel module for loss or delay: it loses,
delays, slows down, swallows and forgets packets itself, as a bad line, a VPN or a middlebox does. What leaves it are
real IP packets, and the kernel's own TCP is at both ends. All of it is gone with its processes: nothing of the
machine's own network is touched.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.processes import Life, fork

_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_MTU = 1500
_QUEUE_BYTES = 256 << 10  # of a router: what does not fit is lost, and TCP slows down
_INSIDE = "vpn"  # the device of a site
_TCP = 6


def namespace_command() -> tuple[list[str], str]:
    """How to run a command in a network of its own, or nothing and why that is not possible here."""
    if not Path("/dev/net/tun").exists():
        return [], "no TUN device (/dev/net/tun)"
    said = "iproute2 or unshare are not installed"
    for command in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        probe = "ip link set lo up && ip tuntap add dev probe mode tun && unshare --net true"
        with suppress(OSError):
            tried = subprocess.run([*command, "sh", "-c", probe], capture_output=True, text=True, check=False)
            if not tried.returncode:
                return command, ""
            said = tried.stderr.strip().splitlines()[-1] if tried.stderr.strip() else said
    return [], f"namespaces are not permitted: {said}"


def ip(*arguments: str) -> None:
    """One command of iproute2, in this process's namespace."""
    subprocess.run(["ip", *arguments], check=True)


def enter(pid: int) -> None:
    """Let this process live in the network of process ``pid``."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        _done(ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET))
    finally:
        os.close(descriptor)


def _done(answer: int) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@dataclass(frozen=True, slots=True)
class Weather:
    """What a wire does to packets. ``loss`` is a share of them, ``bytes_per_s`` of each direction; 0: no bound."""

    loss: float = 0.0
    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    swallows: bool = False


@dataclass(slots=True)
class Wire:
    """The way of site number ``place`` (1 and up) to the host. Made in the host's namespace."""

    place: int
    log: Path
    life: Life = field(init=False)
    _control: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        name = f"wire-{self.place}"
        self.life = fork(name, 1, self.log, lambda: _Carrying(self.place, theirs).run())
        theirs.close()
        self._answer()  # both devices are there

    @property
    def host_address(self) -> str:
        """Under which this site reaches the host."""
        return _addresses(self.place)[0]

    def spoil(self, weather: Weather) -> None:
        """From now on."""
        told = {name: getattr(weather, name) for name in Weather.__slots__}
        self._ask({"weather": told})

    def forget(self) -> None:
        """Swallow from now on what belongs to a connection that there was; new ones pass."""
        self._ask({"forget": True})

    def set_link(self, *, up: bool) -> None:
        """Take the site's device up or down."""
        self._ask({"link": "up" if up else "down"})

    def carried(self) -> dict[str, int]:
        """Bytes of IP packets so far, ``up`` to the host and ``down`` to the site, and how many were ``lost``."""
        return self._ask({})

    def end(self) -> None:
        """Both devices go with their process."""
        with suppress(ProcessLookupError):
            os.kill(self.life.pid, signal.SIGKILL)
        os.waitpid(self.life.pid, 0)
        self._control.close()

    def _ask(self, what: dict[str, Any]) -> Any:
        self._control.send(json.dumps(what).encode())
        return self._answer()

    def _answer(self) -> Any:
        answer = self._control.recv(1 << 12)
        if not answer:
            raise RuntimeError(f"the wire broke: {self.log.read_text()[-500:]}")
        return json.loads(answer)


def _addresses(place: int) -> tuple[str, str]:
    return f"10.213.{place}.1", f"10.213.{place}.2"


def _tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


@dataclass(slots=True)
class _Lane:
    """One direction: packets on their way, with the time at which each arrives."""

    source: int
    target: int
    port_at: int  # where the site's port stands in a TCP header
    way: deque[tuple[float, bytes]] = field(default_factory=deque)
    queued: int = 0
    free_at: float = 0.0
    carried: int = 0


class _Carrying:
    """The process of a wire."""

    def __init__(self, place: int, control: socket.socket) -> None:
        self._control = control
        self._rng = Random(place)
        self._weather = Weather()
        self._seen: set[bytes] = set()
        self._forgotten: set[bytes] = set()
        self._lost = 0
        host, site = _addresses(place)
        name = f"site-{place}"
        outer = _tun(name)
        _set_up(name, host)
        _done(ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET))
        inner = _tun(_INSIDE)
        ip("link", "set", "lo", "up")
        _set_up(_INSIDE, site)
        self._up, self._down = _Lane(inner, outer, 0), _Lane(outer, inner, 2)

    def run(self) -> int:
        """Until killed, or until the test is gone."""
        self._tell()
        waiting = selectors.DefaultSelector()
        actions: dict[Any, Callable[[], None]] = {
            self._control: self._obey,
            self._up.source: lambda: self._take(self._up),
            self._down.source: lambda: self._take(self._down),
        }
        for source in actions:
            waiting.register(source, selectors.EVENT_READ)
        while True:
            due = min((lane.way[0][0] for lane in (self._up, self._down) if lane.way), default=None)
            pause = None if due is None else max(0.0, due - time.monotonic())
            for key, _ in waiting.select(pause):
                actions[key.fileobj]()
            for lane in (self._up, self._down):
                self._pass(lane)

    def _obey(self) -> None:
        asked = self._control.recv(1 << 12)
        if not asked:
            os._exit(0)
        told = json.loads(asked)
        if "weather" in told:
            self._weather = Weather(**told["weather"])
        if "forget" in told:
            self._forgotten |= self._seen
        if "link" in told:
            ip("link", "set", _INSIDE, told["link"])
        self._tell()

    def _tell(self) -> None:
        told = {"up": self._up.carried, "down": self._down.carried, "lost": self._lost}
        self._control.send(json.dumps(told).encode())

    def _take(self, lane: _Lane) -> None:
        """Read what is there, and decide about each packet."""
        for _ in range(64):
            try:
                packet = os.read(lane.source, _MTU + 100)
            except OSError:  # nothing more, or the link is down
                return
            weather, now = self._weather, time.monotonic()
            full = lane.queued + len(packet) > _QUEUE_BYTES
            if weather.swallows or full or self._is_forgotten(packet, lane) or self._rng.random() < weather.loss:
                self._lost += 1
                continue
            lane.free_at = max(lane.free_at, now)
            if weather.bytes_per_s:
                lane.free_at += len(packet) / weather.bytes_per_s
            lane.queued += len(packet)
            lane.way.append((lane.free_at + weather.delay_s, packet))

    def _is_forgotten(self, packet: bytes, lane: _Lane) -> bool:
        head = 4 * (packet[0] & 15)
        if packet[0] >> 4 != 4 or packet[9] != _TCP:
            return False
        port = packet[head + lane.port_at : head + lane.port_at + 2]
        self._seen.add(port)
        return port in self._forgotten

    def _pass(self, lane: _Lane) -> None:
        now = time.monotonic()
        while lane.way and lane.way[0][0] <= now:
            _, packet = lane.way.popleft()
            lane.queued -= len(packet)
            try:
                os.write(lane.target, packet)
                lane.carried += len(packet)
            except OSError:  # the link is down
                self._lost += 1


def _set_up(name: str, address: str) -> None:
    ip("address", "add", f"{address}/30", "dev", name)
    ip("link", "set", name, "up", "mtu", str(_MTU))
