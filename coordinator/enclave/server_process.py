"""The app's own server runs in a process of its own that has the bundle and nothing else. Trust zone: aggregator TEE.

The child is forked before keys exist and before threads start: it inherits no secret, no door and no environment. It
gives up the network, other programs and other files, and only then imports flwr and the app. What the app prints is
dropped: nobody hears it. Messages and models pass through shared anonymous memory, words about them as small canonical
JSON. The child may say anything: the parent reads its frames with a bound and a deadline, and copies before it checks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn

import numpy as np

from coordinator.enclave.server_app.asks import (
    Answer,
    Ask,
    Begin,
    Collect,
    Collected,
    Failed,
    Finished,
    Here,
    Nodes,
    Offer,
    Offered,
    Pull,
    Reply,
    Send,
    Sent,
)
from trusted.apps.bundle import MAX_BUNDLE_BYTES, unpack_bundle
from trusted.apps.child import (
    START_TIMEOUT_S,
    become_alone,
    confine_app,
    end_child,
    end_with_channel,
    read_frame,
    write_frame,
)
from trusted.apps.config import Scalar
from trusted.documents.layout import Layout
from trusted.documents.plan import Plan
from trusted.errors import AppError, ProtocolError, Reason
from trusted.wire import Fields, decode_json

_MAX_NODES = 1024
_MAX_NUMBER = 1 << 53
# What a child may say of its end; anything else is SERVER_APP_FAILED.
_SAID = frozenset(
    {
        Reason.BUNDLE_MALFORMED,
        Reason.APP_MEMORY,
        Reason.MESSAGE_FORM,
        Reason.MESSAGE_SIZE,
        Reason.SERVER_APP_FAILED,
        Reason.SERVER_APP_MODEL,
    }
)


@dataclass(frozen=True, slots=True)
class ServerAppSpec:
    """What the child is given.

    Attributes:
        app_dir: the app, from ``unpack_bundle``.
        scratch: an existing folder that the app may write to; its working directory.
        layout, config, rounds: the plan's.
        message_bytes: of every message.
        turn_s: how long the app may take between two exchanges; importing it comes on top of the first.
        threads: how many cores it may use.
        memory_bytes: how much memory it may ask for; 0: three quarters of the machine's.
    """

    app_dir: Path
    scratch: Path
    layout: Layout
    config: Mapping[str, Scalar]
    rounds: int
    message_bytes: int
    turn_s: float
    threads: int = 1
    memory_bytes: int = 0

    @classmethod
    def of(cls, plan: Plan, bundle: Path) -> ServerAppSpec:
        """Unpack the plan's app, whose bearer may be lying, into a new folder.

        Raises:
            AppError: BUNDLE_DIGEST, BUNDLE_MALFORMED. OSError: it cannot be read.
        """
        with bundle.open("rb") as file:
            data = file.read(MAX_BUNDLE_BYTES + 1)
        room = Path(mkdtemp(prefix="server-app-"))
        app_dir = unpack_bundle(data, expected=plan.app.bundle_sha256, into=room / "app")
        scratch = room / "scratch"
        scratch.mkdir(mode=0o700)
        terms = plan.aggregation
        return cls(
            app_dir, scratch, plan.layout, dict(plan.app.config), plan.rounds, terms.message_bytes, float(terms.turn_s)
        )


@dataclass(slots=True)
class ServerAppProcess:
    """Implements :class:`coordinator.enclave.server_app.ServerApp` over a child; the handle of its parent."""

    spec: ServerAppSpec
    pid: int
    component: str
    flower: str
    _channel: socket.socket = field(repr=False)
    _model: mmap.mmap = field(repr=False)
    _message: mmap.mmap = field(repr=False)
    _left_s: float = 0.0
    _alive: bool = True
    _ending: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def fork(cls, spec: ServerAppSpec) -> ServerAppProcess:
        """Fork a child that waits, confined, and loads no code of a member yet.

        Raises:
            RuntimeError: threads run already: the caller came too late.
            AppError: BUNDLE_MALFORMED: the bundle names no serverapp. APP_DEPENDENCY: this image has no Flower.
        """
        if threading.active_count() != 1:
            raise RuntimeError("server app: must be started before threads are")
        component, flower = _component(spec.app_dir), _flower()
        sys.stdout.flush()
        sys.stderr.flush()
        ours, theirs = socket.socketpair()
        model, message = mmap.mmap(-1, spec.layout.size_bytes), mmap.mmap(-1, spec.message_bytes)
        pid = os.fork()
        if pid == 0:
            _child(spec, theirs, model, message)
        theirs.close()
        return cls(spec, pid, component, flower, ours, model, message)

    def turn(self, answer: Answer) -> Ask:
        """As :class:`~coordinator.enclave.server_app.ServerApp`."""
        if isinstance(answer, Begin | Collected):
            self._left_s = self.spec.turn_s + (START_TIMEOUT_S if isinstance(answer, Begin) else 0.0)
        begun = time.monotonic()
        try:
            write_frame(self._channel, self._said(answer))
            frame = read_frame(self._channel, begun + max(self._left_s, 0.0))
            with Fields(decode_json(frame), "server-app") as fields:
                return self._heard(fields)
        except TimeoutError:
            self.stop()
            return Failed(Reason.SERVER_APP_TURN)
        except (EOFError, OSError, ProtocolError):
            self.stop()
            return Failed(Reason.SERVER_APP_FAILED)
        finally:
            self._left_s -= time.monotonic() - begun  # an app that only asks who is there uses up its turn as well

    def stop(self) -> None:
        """End the child now; it has nothing to save."""
        with self._ending:
            if self._alive:
                self._alive = False
                end_child(self.pid, self._channel)

    def _said(self, answer: Answer) -> dict[str, Any]:
        match answer:
            case Begin(model):
                np.frombuffer(self._model, np.float32)[:] = model
                return {"begin": True}
            case Here(nodes):
                return {"nodes": list(nodes)}
            case Offered(number):
                return {"offered": number}
            case Sent(exchange):
                return {"sent": exchange}
            case Collected(counted, lost):
                return {"counted": list(counted), "lost": [[node, int(reason)] for node, reason in lost]}
            case Reply(content):
                if content is not None:
                    self._message[:] = content
                return {"reply": content is not None}

    def _heard(self, fields: Fields) -> Ask:
        kind = fields.choice("ask", ("nodes", "offer", "send", "collect", "pull", "finished", "failed"))
        if kind == "offer":
            return Offer(bytes(self._message))
        if kind == "send":
            timeout_s = fields.number("timeout_s", low=0, high=1e9)
            return Send(tuple(map(_pair, fields.items("to", max_items=_MAX_NODES))), timeout_s)
        if kind == "collect":
            return Collect(fields.integer("exchange", low=1, high=_MAX_NUMBER))
        if kind == "pull":
            exchange = fields.integer("exchange", low=1, high=_MAX_NUMBER)
            return Pull(exchange, fields.integer("node", low=0, high=_MAX_NUMBER))
        if kind == "finished":
            return Finished(np.frombuffer(self._model, np.float32).copy())
        if kind == "failed":
            number = fields.integer("reason", low=0, high=1 << 16)
            return Failed(Reason(number) if number in _SAID else Reason.SERVER_APP_FAILED)
        return Nodes()


def _pair(value: Any) -> tuple[int, int]:
    with Fields({"pair": value}, "server-app") as fields:
        pair = fields.items("pair", max_items=2)
    with Fields(dict(zip(("node", "offer"), pair, strict=False)), "server-app.to") as fields:
        node = fields.integer("node", low=0, high=_MAX_NUMBER)
        return node, fields.integer("offer", low=0, high=_MAX_NODES)


def _flower() -> str:
    try:
        return metadata.version("flwr")
    except metadata.PackageNotFoundError:
        raise AppError(Reason.APP_DEPENDENCY, "app: flwr is not installed in this aggregator's image") from None


def _component(app_dir: Path) -> str:
    try:
        project = tomllib.loads((app_dir / "pyproject.toml").read_text("utf-8"))
        component = project["tool"]["flwr"]["app"]["components"]["serverapp"]
    except (OSError, ValueError, KeyError, TypeError):
        component = None
    if not isinstance(component, str) or not component.isascii() or not 0 < len(component) <= 256:
        raise AppError(Reason.BUNDLE_MALFORMED, "app bundle: pyproject.toml names no serverapp")
    return component


# --- the child --------------------------------------------------------------------------------------------------------


def _child(spec: ServerAppSpec, channel: socket.socket, model: mmap.mmap, message: mmap.mmap) -> NoReturn:
    """The whole life of the child. It leaves by ``_exit`` alone: no handler or buffer of the parent may run here."""
    try:
        unheard = os.open(os.devnull, os.O_WRONLY)
        kept = (channel.fileno(),)
        become_alone(kept, words=unheard, scratch=spec.scratch, threads=spec.threads, memory_bytes=spec.memory_bytes)
        confine_app((spec.app_dir,), scratch=spec.scratch)
        threading.Thread(target=end_with_channel, args=(channel.fileno(),), daemon=True).start()
        read_frame(channel, None)  # begin
        write_frame(channel, _run(spec, _Parent(channel, message), model))
        read_frame(channel, None)  # nothing comes: the parent ends it
    except BaseException:  # the process shell; there is nobody to tell
        with contextlib.suppress(OSError):
            channel.close()
    finally:
        os._exit(0)


def _run(spec: ServerAppSpec, parent: _Parent, model: mmap.mmap) -> dict[str, Any]:
    """Load and run the app; the last thing that it asks."""
    # Not above: flwr imports gRPC, which the parent must not have.
    from coordinator.enclave.server_flower import HostedServerApp

    try:
        app = HostedServerApp.load(spec.app_dir, config=spec.config, rounds=spec.rounds, layout=spec.layout)
        initial = np.frombuffer(model, np.float32).copy()
        np.frombuffer(model, np.float32)[:] = app.run(initial, parent.ask, spec.message_bytes)
    except AppError as error:
        return {"ask": "failed", "reason": int(error.reason)}
    except MemoryError:
        return {"ask": "failed", "reason": int(Reason.APP_MEMORY)}
    except (Exception, SystemExit):  # the shell around the members' code; what it says goes nowhere
        return {"ask": "failed", "reason": int(Reason.SERVER_APP_FAILED)}
    return {"ask": "finished"}


@dataclass(frozen=True, slots=True)
class _Parent:
    """The enclave, as the child speaks to it."""

    channel: socket.socket
    message: mmap.mmap

    def ask(self, ask: Ask) -> Answer:
        """Ask one thing, and wait."""
        write_frame(self.channel, self._said(ask))
        answer = decode_json(read_frame(self.channel, None))
        match ask:
            case Nodes():
                return Here(tuple(answer["nodes"]))
            case Offer():
                return Offered(answer["offered"])
            case Send():
                return Sent(answer["sent"])
            case Collect():
                lost = tuple((node, Reason(number)) for node, number in answer["lost"])
                return Collected(tuple(answer["counted"]), lost)
            case _:
                return Reply(bytes(self.message) if answer["reply"] else None)

    def _said(self, ask: Ask) -> dict[str, Any]:
        match ask:
            case Offer(content):
                self.message[:] = content
                return {"ask": "offer"}
            case Send(to, timeout_s):
                return {"ask": "send", "to": [list(pair) for pair in to], "timeout_s": timeout_s or 0.0}
            case Collect(exchange):
                return {"ask": "collect", "exchange": exchange}
            case Pull(exchange, node):
                return {"ask": "pull", "exchange": exchange, "node": node}
            case _:
                return {"ask": "nodes"}
