"""The one module of the aggregator that knows Flower, private parts included (flwr 1.41 and 1.42).

Trust zone: the confined child of the aggregator TEE, which runs the members' own server code. An ordinary ServerApp
runs here unmodified, over a Grid whose every call is an ask of the enclave (docs/server-apps.md).
``tests/enclave/test_server_app.py`` holds each seam against the installed version. Importing this module imports flwr,
which imports gRPC: only the child may.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from secrets import token_hex
from typing import Any, TypeVar

from trusted.apps.flower_component import import_component  # before flwr: it lets flwr call nobody

# isort: split
from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict
from flwr.common import ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.config import flatten_dict, get_project_config
from flwr.server.server import Server
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from coordinator.enclave.server_app.asks import (
    Answer,
    Ask,
    Collect,
    Collected,
    Here,
    Nodes,
    Offer,
    Offered,
    Pull,
    Reply,
    Send,
    Sent,
)
from trusted.apps.arrays import Arrays, final_vector, is_like, split_vector
from trusted.apps.config import Scalar, fuse_config
from trusted.apps.flower_records import flower_records, plain_records
from trusted.apps.messages import AppMessage
from trusted.documents.layout import Layout
from trusted.encoding import Vector
from trusted.errors import AppError, Reason

_RUN, _NODE, _TASK = 1, 1, 1  # one run in this process; the node is Flower's own number of a server
_ROUNDS_KEY = "num-server-rounds"  # as `flwr new` writes it
_STATE_KEY = "arrays"
_RAISED, _LOST, _GONE = 2, 5, 4  # flwr.common.constant.ErrorCode
_APP_REASONS = frozenset({Reason.APP_FAILED, Reason.APP_MEMORY, Reason.APP_TIMEOUT, Reason.MESSAGE_FORM})
_TOGETHER_S = 0.1

T = TypeVar("T", bound=Answer)
AskFor = Callable[[Ask], Answer]


@dataclass(slots=True)
class _Sent:
    """A message that is on its way: where it went, and what an answer to it refers to."""

    exchange: int
    metadata: Any


@dataclass(slots=True)
class _Waiting:
    """A message that a thread of its own sends, and what came of it."""

    message: Message
    done: threading.Event = field(default_factory=threading.Event)
    replies: list[Message] = field(default_factory=list)


class SessionGrid(Grid):  # type: ignore[misc]
    """Flower's Grid over admitted sessions. ``ask`` asks the enclave one thing and waits for the answer.

    Any thread may call it. One exchange is open at a time: who sends while one is, waits.
    """

    def __init__(self, ask: AskFor, message_bytes: int) -> None:
        self._ask_for = ask
        self._message_bytes = message_bytes
        self._run = Run.create_empty(_RUN)
        self._sent: dict[str, _Sent] = {}
        self._collected: dict[int, Collected] = {}
        self._asking = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._joining = threading.Lock()

    def set_run(self, run: Run) -> None:
        """Take ``run``, which the app may look at; it decides nothing here."""
        self._run = run

    @property
    def run(self) -> Run:
        """What was set, or an empty one."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """As Flower's own."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Members that are admitted and take tasks now; comes back only once they are the plan's minimum."""
        return list(self._ask(Nodes(), Here).nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send ``messages``; those that a node gets beside another one of them go as a further exchange."""
        return [name for batch in _batches(messages) for name in self._push(batch, None)]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Their answers, each once: waits until their exchanges have ended. Who is lost answers with an Error.

        Whoever pulls one id at a time holds one answer at a time.
        """
        return [self._pull(name) for name in list(message_ids) if name in self._sent]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Both, with ``timeout`` where it is shorter than the plan's."""
        given = list(messages)
        if len(given) == 1 and threading.current_thread() is not threading.main_thread():
            return self._send_together(given[0])
        pushed = [name for batch in _batches(given) for name in self._push(batch, timeout)]
        return self.pull_messages(pushed)

    def _send_together(self, message: Message) -> list[Message]:
        """Flower's older servers ask each node in a thread of its own; what is asked in one moment is one exchange."""
        mine = _Waiting(message)
        with self._joining:
            self._waiting.append(mine)
            leads = len(self._waiting) == 1
        if leads:
            time.sleep(_TOGETHER_S)
            with self._joining:
                taken, self._waiting = self._waiting, []
            try:
                for batch in _batches([one.message for one in taken]):
                    sent = set(map(id, batch))
                    by_node = {one.message.metadata.dst_node_id: one for one in taken if id(one.message) in sent}
                    for reply in self.pull_messages(self._push(batch, None)):
                        by_node[reply.metadata.src_node_id].replies.append(reply)
            finally:
                for one in taken:
                    one.done.set()
        mine.done.wait()
        return mine.replies

    def _push(self, batch: list[Message], timeout: float | None) -> list[str]:
        """One exchange; a content that several nodes get is offered once."""
        with self._asking:
            offered: dict[bytes, int] = {}
            known: dict[tuple[int, str, str], int] = {}
            to = []
            for message in batch:
                said = message.metadata
                shared = id(message.content), said.message_type, said.group_id
                if shared not in known:
                    known[shared] = self._offer(message, offered)
                to.append((said.dst_node_id, known[shared]))
            longest = min(timeout or said.ttl, said.ttl)
            exchange = self._say(Send(tuple(to), float(longest)), Sent).exchange
            names = []
            for message in batch:
                name = message.metadata.__dict__["_message_id"] = token_hex(16)  # there is no public setter
                self._sent[name] = _Sent(exchange, message.metadata)
                names.append(name)
            return names

    def _offer(self, message: Message, offered: dict[bytes, int]) -> int:
        said = message.metadata
        plain = AppMessage(said.message_type, said.group_id, plain_records(message.content))
        content = plain.encode(self._message_bytes)
        digest = sha256(content).digest()
        if digest not in offered:
            offered[digest] = self._say(Offer(content), Offered).number
        return offered[digest]

    def _pull(self, name: str) -> Message:
        sent = self._sent.pop(name)
        with self._asking:
            if sent.exchange not in self._collected:
                self._collected[sent.exchange] = self._say(Collect(sent.exchange), Collected)
            collected, node = self._collected[sent.exchange], sent.metadata.dst_node_id
            content = self._say(Pull(sent.exchange, node), Reply).content if node in collected.counted else None
            if all(other.exchange != sent.exchange for other in self._sent.values()):
                del self._collected[sent.exchange]
        asked = Message(RecordDict(), metadata=sent.metadata)
        reply = Message(_error(dict(collected.lost).get(node)), reply_to=asked)
        if content is not None:
            reply = Message(flower_records(AppMessage.parse(content).records), reply_to=asked)
        reply.metadata.__dict__["_message_id"] = token_hex(16)
        return reply

    def _ask(self, ask: Ask, kind: type[T]) -> T:
        with self._asking:
            return self._say(ask, kind)

    def _say(self, ask: Ask, kind: type[T]) -> T:
        answer = self._ask_for(ask)
        if not isinstance(answer, kind):
            raise RuntimeError("the enclave answers what was asked")
        return answer


def _batches(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """``messages`` in as few parts as go with one for each node."""
    left = list(messages)
    while left:
        batch: dict[int, Message] = {}
        rest = []
        for message in left:
            if batch.setdefault(message.metadata.dst_node_id, message) is not message:
                rest.append(message)
        yield list(batch.values())
        left = rest


def _error(reason: Reason | None) -> Error:
    """What Flower's strategies take for a node that has no answer; the words name a reason and nothing else."""
    if reason is None:
        return Error(_GONE, "no answer at the host any more")
    return Error(_RAISED if reason in _APP_REASONS else _LOST, reason.code)


# --- the app ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HostedServerApp:
    """A ServerApp from an unpacked bundle. One for each process: Flower's identity is global."""

    server: ServerApp
    layout: Layout
    run_config: dict[str, Scalar]

    @classmethod
    def load(cls, app_dir: Path, *, config: Mapping[str, Scalar], rounds: int, layout: Layout) -> HostedServerApp:
        """Import the app in ``app_dir`` with the plan's ``config`` and, where it has such a key, its ``rounds``.

        Raises:
            AppError: BUNDLE_MALFORMED: no such ServerApp. SERVER_APP_FAILED: its code raised while it was imported.
        """
        try:
            project = get_project_config(app_dir)["tool"]["flwr"]["app"]
            defaults = flatten_dict(project.get("config", {}))
            reference = str(project["components"]["serverapp"])
        except (ValueError, KeyError, OSError):
            raise AppError(Reason.BUNDLE_MALFORMED, "app bundle: pyproject.toml names no serverapp") from None
        run_config = fuse_config(defaults, config)
        if _ROUNDS_KEY in defaults:
            run_config[_ROUNDS_KEY] = rounds
        failed = AppError(Reason.SERVER_APP_FAILED, "app: importing its server raised")
        server = import_component(reference, app_dir.absolute(), ServerApp, raised=lambda _: failed)
        return cls(server, layout, run_config)

    def run(self, model: Vector, ask: AskFor, message_bytes: int) -> Vector:
        """Run the app from ``model``, the plan's initial one, float32[elements]; its final model in the plan's layout.

        Raises:
            AppError: SERVER_APP_MODEL: it left none, or one of another form. MESSAGE_SIZE, MESSAGE_FORM: it sends what
                the plan's messages cannot carry. Whatever the app raises.
        """
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _NODE, _TASK
        state = RecordDict()
        context = Context(run_id=_RUN, node_id=_NODE, node_config={}, state=state, run_config=dict(self.run_config))
        with _final_model(self.layout, split_vector(self.layout, model)) as found:
            self.server(SessionGrid(ask, message_bytes), context)
        if not found:
            left = context.state.array_records.get(_STATE_KEY)
            if left is not None:
                found.append(_numpy(left))
        if not found:
            raise AppError(Reason.SERVER_APP_MODEL, "final model: none from a strategy, nor in context.state")
        return final_vector(self.layout, found[-1])


class _Begun(BaseException):
    """A strategy has started, with ``arrays``: not an Exception, which an app might catch."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.arrays = arrays


def first_arrays(app_dir: Path, config: Mapping[str, Scalar]) -> Arrays:
    """What the first strategy of the app's server starts from, in the order of its record; there the app ends.

    Raises:
        AppError: BUNDLE_MALFORMED, SERVER_APP_FAILED: it cannot be loaded. SERVER_APP_MODEL: it starts no strategy, or
            one that has its first parameters from a client. Whatever the app raises.
    """

    def nobody(ask: Ask) -> Answer:
        if isinstance(ask, Nodes) and threading.current_thread() is not threading.main_thread():
            return Here(())  # Flower's older servers look out for clients beside their work
        raise AppError(Reason.SERVER_APP_MODEL, "initial model: the app asks its nodes before a strategy starts")

    def started(self: Strategy, grid: Grid, initial_arrays: ArrayRecord, *rest: Any, **more: Any) -> Any:
        raise _Begun(_numpy(initial_arrays))

    def begun(self: Server, *rest: Any, **more: Any) -> Any:
        given = self.strategy.initialize_parameters(self.client_manager())
        if given is None:
            raise AppError(Reason.SERVER_APP_MODEL, "initial model: the app takes it from a client")
        raise _Begun({str(place): array for place, array in enumerate(parameters_to_ndarrays(given))})

    none = Layout(())
    hosted = HostedServerApp.load(app_dir, config=config, rounds=1, layout=none)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _NODE, _TASK
    start, first = Strategy.start, Server._get_initial_parameters
    Strategy.start, Server._get_initial_parameters = started, begun
    try:
        hosted.server(SessionGrid(nobody, 0), Context(_RUN, _NODE, {}, RecordDict(), hosted.run_config))
    except _Begun as reached:
        return reached.arrays
    finally:
        Strategy.start, Server._get_initial_parameters = start, first
    raise AppError(Reason.SERVER_APP_MODEL, "initial model: the app's server ended and started no strategy")


@contextmanager
def _final_model(layout: Layout, initial: Arrays) -> Iterator[list[Arrays]]:
    """While this holds, the first strategy starts from ``initial``, and the models that strategies end with are kept.

    Flower stores no result and has no hook for one: ``Strategy.start`` returns it to the app, and of its older servers
    ``Server.fit`` leaves it in ``parameters``. An app whose own first arrays are not in the plan's layout starts from
    those: its final model must be in the layout all the same.
    """
    found: list[Arrays] = []
    fresh = [initial]
    start, fit, first = Strategy.start, Server.fit, Server._get_initial_parameters

    def started(self: Strategy, grid: Grid, initial_arrays: ArrayRecord, *rest: Any, **more: Any) -> Any:
        if fresh and is_like(layout, _numpy(initial_arrays)):
            named = fresh.pop()
            order = [name for name in initial_arrays if name in named]  # a state_dict's own
            initial_arrays = ArrayRecord({name: Array(named[name]) for name in order})
        result = start(self, grid, initial_arrays, *rest, **more)
        found.append(_numpy(result.arrays or initial_arrays))
        return result

    def fitted(self: Server, *rest: Any, **more: Any) -> Any:
        history = fit(self, *rest, **more)
        trained = parameters_to_ndarrays(self.parameters)
        found.append(dict(zip((spec.name for spec in layout.tensors), trained, strict=False)))
        return history

    def begun(self: Server, *rest: Any, **more: Any) -> Any:
        if not fresh:
            return first(self, *rest, **more)
        named = fresh.pop()
        return ndarrays_to_parameters([named[spec.name] for spec in layout.tensors])

    Strategy.start, Server.fit, Server._get_initial_parameters = started, fitted, begun
    try:
        yield found
    finally:
        Strategy.start, Server.fit, Server._get_initial_parameters = start, fit, first


def _numpy(record: ArrayRecord) -> Arrays:
    try:
        return {name: array.numpy() for name, array in record.items()}
    except (TypeError, ValueError, EOFError, OSError):
        raise AppError(Reason.SERVER_APP_MODEL, "final model: arrays in Flower's NumPy form expected") from None
