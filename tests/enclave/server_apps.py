"""An app's own server over really sealed sessions in memory, and the same app over a Grid that is 25 lines."""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid, ServerApp, strategy
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from coordinator.enclave.aggregator import Aggregator
from coordinator.enclave.server_app.asks import Answer, Ask, Begin, Collected, Failed, Finished
from coordinator.enclave.server_flower import HostedServerApp
from tests.world import INITIAL, LAYOUT, MemoryStore, Net, SimpleSite, World
from trusted.apps.arrays import split_vector
from trusted.apps.messages import AppMessage
from trusted.blob import ContentKey, SealedVector, open_vector, seal
from trusted.documents.layout import Layout
from trusted.documents.terms import Aggregation, Cohort
from trusted.errors import AppError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.segments import Segment
from trusted.wire import sha256
from worker.flower import FlowerApp
from worker.participant import Respond, SendInitial

MIB = 1 << 20
FOUR = {"min_train_nodes": 4, "min_evaluate_nodes": 4, "min_available_nodes": 4}
TERMS = {"rule": "server-app", "max_weight": 1000, "max_exchanges": 40, "max_message_mib": 1, "turn_s": 20}


def server_world(software_root: Any, chip: Any, *, minimum: int = 2, **changes: Any) -> World:
    """A federation of four whose plan has the app's own server, and whose sites allow it."""
    terms = Aggregation.read(TERMS | changes.pop("terms", {}))
    members = ("site-1", "site-2", "site-3", "site-4")
    plan = {"aggregation": terms, "cohort": Cohort(members, minimum, len(members))} | changes
    return World(software_root, chip, plan_changes=plan, site_changes={"server_app_exchanges": 100})


class ThreadedServerApp:
    """Stands where the child's process stands: the same code of ours, in a thread."""

    component = "tests:app"
    flower = "1.41.0"

    def __init__(self, hosted: HostedServerApp, message_bytes: int, turn_s: float = 20.0) -> None:
        self.hosted = hosted
        self.message_bytes = message_bytes
        self.turn_s = turn_s
        self.left_s = turn_s
        self.asks: queue.Queue[Ask] = queue.Queue()
        self.answers: queue.Queue[Answer | None] = queue.Queue()
        self.heard: list[Ask] = []
        self.stopped = False

    def turn(self, answer: Answer) -> Ask:
        if self.stopped:
            return Failed(Reason.SERVER_APP_FAILED)
        TaskIdentity.node_id = 1  # a client in this process had its own
        if isinstance(answer, Begin):
            threading.Thread(target=self._run, args=(answer.model,), daemon=True).start()
        else:
            self.answers.put(answer)
        if isinstance(answer, Begin | Collected):
            self.left_s = self.turn_s
        begun = time.monotonic()
        try:
            ask = self.asks.get(timeout=max(0.0, self.left_s))
        except queue.Empty:
            ask = Failed(Reason.SERVER_APP_TURN)
        self.left_s -= time.monotonic() - begun
        self.heard.append(ask)
        return ask

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.answers.put(None)

    def _ask(self, ask: Ask) -> Answer:
        self.asks.put(ask)
        answer = self.answers.get()
        if answer is None:
            raise SystemExit
        return answer

    def _run(self, model: np.ndarray) -> None:
        try:
            self.asks.put(Finished(self.hosted.run(model, self._ask, self.message_bytes)))
        except AppError as error:
            self.asks.put(Failed(error.reason))
        except SystemExit:
            return
        except Exception as error:
            self.error = error
            self.asks.put(Failed(Reason.SERVER_APP_FAILED))


class AppSite(SimpleSite):
    """A worker in memory whose Flower app answers messages."""

    def __init__(self, world: World, member: str, client: ClientApp, **more: Any) -> None:
        super().__init__(world, member, **more)
        place = world.members.index(member)
        nodes = {"partition-id": place, "num-partitions": len(world.members)}
        self.app = FlowerApp(client, Context(1, 1, nodes, RecordDict(), {}), lambda text: None)
        self.messages: list[Respond] = []
        self.contents: list[bytes] = []
        self.replies = 0


class AppNet(Net):
    """The host of such a run."""

    def __init__(
        self, world: World, port: Any, store: MemoryStore | None = None, initial: np.ndarray = INITIAL
    ) -> None:
        self.port = port
        self.initial = initial
        super().__init__(world, store)

    def make_aggregator(self) -> Aggregator:
        identity = self.world.identity("aggregator")
        return Aggregator(self.world.federation, identity, self.store, server_app=self.port)

    def act(self, connection: int, action: Any) -> None:
        site = self.sites[connection]
        if isinstance(action, Respond):
            site.messages.append(action)
            if site.automatic:
                self.respond(connection, action)
        elif isinstance(action, SendInitial):
            key = ContentKey.generate()
            pieces = seal(action.header, [self.initial.tobytes()], key=key, signing_key=site.identity.signing_key)
            self.store.blobs[action.blob] = b"".join(pieces)
            self.say(connection, {"type": "initial", "blob": action.blob.hex(), "key": key.secret.hex()})
        else:
            super().act(connection, action)

    def opened(self, task: Respond) -> bytes:
        words = np.empty(task.model.header.elements, dtype="<f4")
        stored, model = [self.store.blobs[task.model.blob]], task.model
        open_vector(stored, words, expected=model.header, key=model.key, verify_key=model.signer)
        return words.tobytes()

    def respond(self, connection: int, task: Respond, *, content: bytes | None = None, **changes: Any) -> None:
        site = self.sites[connection]
        given = self.opened(task)
        site.contents.append(given)
        try:
            answer = site.app.respond(AppMessage.parse(given), task.node, task.round).encode(len(given))
        except AppError as error:
            self.say(connection, {"type": "failed", "round": task.round, "reason": int(error.reason)})
            return
        words = np.frombuffer(answer if content is None else content, dtype="<f4")
        key = ContentKey.generate()
        sealed = bytes(SealedVector(task.upload_header, words, key=key, signing_key=site.identity.signing_key))
        self.store.blobs[task.upload] = self.stored(connection, sealed)
        prefix = sha256(sealed[: task.upload_header.prefix_bytes])
        site.replies += 1
        said = {"type": "reply", "round": task.round, "blob": task.upload.hex(), "key": key.secret.hex()}
        self.say(connection, said | {"prefix_sha256": prefix.hex()} | changes)


def server_of(
    strategy: Callable[[], Any], *, rounds: int = 2, names: list[str] | None = None, **more: Any
) -> ServerApp:
    """An ordinary ServerApp that starts ``strategy`` from arrays of its own, which a plan's model replaces."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        own = {spec.name: Array(np.zeros(spec.shape, spec.dtype.value)) for spec in LAYOUT.tensors}
        initial = more.get("initial") or ArrayRecord(own)
        made = strategy()
        given = {key: value for key, value in more.items() if key != "initial"}
        context.state["result"] = MetricRecord({"rounds": rounds})
        made.start(grid=grid, initial_arrays=initial, num_rounds=rounds, **given)

    return app


def running(
    world: World, server: ServerApp, client: ClientApp, *, layout: Layout = LAYOUT, initial: np.ndarray = INITIAL
) -> AppNet:
    """A run over sealed sessions, as far as it goes."""
    hosted = HostedServerApp(server, layout, {})
    terms = world.plan.document.aggregation
    net = AppNet(world, ThreadedServerApp(hosted, terms.message_bytes, float(terms.turn_s)), initial=initial)
    net.start()
    for index, member in enumerate(world.members):
        net.join(AppSite(world, member, client, has_initial=index == 0))
    return net


class PlainGrid(Grid):
    """Flower's Grid in memory, without any of our code: what a run over ours is held against."""

    def __init__(self, client: ClientApp, count: int) -> None:
        self.client = client
        self.contexts = {
            10 + place: Context(1, 10 + place, {"partition-id": place, "num-partitions": count}, RecordDict(), {})
            for place in range(count)
        }
        self.replies: dict[str, Message] = {}
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            name = message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            given = _through_protobuf(message)
            try:
                reply = self.client(given, self.contexts[message.metadata.dst_node_id])
            except Exception as error:
                reply = Message(Error(2, repr(error)), reply_to=given)
            self.replies[name] = _through_protobuf(reply)
            ids.append(name)
        return ids

    def pull_messages(self, message_ids):
        return [self.replies.pop(name) for name in list(message_ids) if name in self.replies]

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


def _through_protobuf(message: Message) -> Message:
    return message_from_proto(ProtoMessage.FromString(message_to_proto(message).SerializeToString()))


def plainly(
    server: Callable[[], Any],
    client: ClientApp,
    *,
    rounds: int = 2,
    initial: Mapping[str, np.ndarray] | None = None,
    **more: Any,
) -> dict[str, np.ndarray]:
    """The final arrays of the same strategy from the same model, over :class:`PlainGrid`."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    model = split_vector(LAYOUT, INITIAL) if initial is None else initial
    arrays = ArrayRecord({name: Array(array) for name, array in model.items()})
    more.pop("initial", None)
    result = server().start(grid=PlainGrid(client, 4), initial_arrays=arrays, num_rounds=rounds, **more)
    return {name: array.numpy() for name, array in result.arrays.items()}


def fed_avg(**more: Any) -> strategy.FedAvg:
    return strategy.FedAvg(**(FOUR | more))


def main_of(body: Any) -> ServerApp:
    app = ServerApp()
    app.main()(body)
    return app


def kept(context: Context, arrays: dict[str, np.ndarray] | None = None) -> None:
    """A custom app leaves its final model where docs/server-apps.md says."""
    named = split_vector(LAYOUT, INITIAL) if arrays is None else arrays
    context.state["arrays"] = ArrayRecord({name: Array(value) for name, value in named.items()})


def asked(node: int, said: str = "hello", kind: str = "query") -> Message:
    return Message(RecordDict({"config": ConfigRecord({"said": said})}), node, kind)


def echoing() -> ClientApp:
    """A client that says back what it was asked, and as whom."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        said = str(message.content["config"]["said"])
        if said == "raise":
            raise ValueError("secret words of a site")
        content = {"config": ConfigRecord({"said": said, "node": context.node_id})}
        return Message(RecordDict(content), reply_to=message)

    return app


def logged(net: AppNet) -> list[Any]:
    """Every leaf that lies at the host."""
    found = []
    for stored in net.store.blobs.values():
        try:
            segment = Segment.decode(stored)
        except ProtocolError:
            continue
        found.append((segment.before.size, segment.leaves))
    return [leaves.parse(leaf) for _, some in sorted(found) for leaf in some]


def failure(net: AppNet) -> list[str]:
    assert net.aggregator.state.value == "abandoned", net.events[-4:]
    return [fields["reason"] for fields in net.outcomes("server-app-failed")]


def slow(world: World, server: ServerApp, client: ClientApp, automatic: tuple[str, ...]) -> AppNet:
    """A run in which only some sites answer by themselves."""
    terms = world.plan.document.aggregation
    net = AppNet(world, ThreadedServerApp(HostedServerApp(server, LAYOUT, {}), terms.message_bytes))
    net.start()
    for place, member in enumerate(world.members):
        site = AppSite(world, member, client, has_initial=place == 0)
        site.automatic = member in automatic
        net.join(site)
    return net


class Lying(ThreadedServerApp):
    """A child that asks what our code in it never would."""

    def __init__(self, *asks: Ask) -> None:
        self.script = list(asks)
        self.heard = []

    def turn(self, answer: Any) -> Ask:
        return self.script.pop(0) if self.script else Failed(Reason.SERVER_APP_FAILED)

    def stop(self) -> None:
        pass


def successor(net: AppNet, port: Any) -> None:
    """Another aggregator over the same store; the same workers come back to it."""
    before = list(net.sites.values())
    net.port, net.sites, net.due = port, {}, type(net.due)()
    net.aggregator = net.make_aggregator()
    net.start()
    for site in before:
        again = AppSite(net.world, site.member, echoing())
        again.participant = site.participant
        again.identity = site.identity
        net.join(again)
