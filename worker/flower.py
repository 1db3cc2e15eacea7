"""The one module that knows Flower, private parts included (flwr 1.41 and 1.42). Trust zone: worker.

An ordinary ClientApp runs here unmodified: it is given the messages that FedAvg would send (records ``arrays`` and
``config`` with ``server-round``) and a Context that lives as long as the process. ``tests/worker/test_flower.py`` holds
each seam against the installed version. Importing this module imports flwr, which imports gRPC: in a worker, only the
trainer process may.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trusted.apps.flower_component import import_component  # before flwr: it lets flwr call nobody

# isort: split
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.config import flatten_dict, get_project_config
from flwr.supercore.task_identity import TaskIdentity

from trusted.apps.arrays import Arrays
from trusted.apps.config import Scalar, as_defaults, fuse_config
from trusted.apps.flower_records import flower_records, plain_records
from trusted.apps.messages import AppMessage
from trusted.documents.terms import Change
from trusted.errors import AppError, Reason
from worker.flower_legacy import legacy_reply, legacy_request
from worker.rows import ROWS
from worker.trainer import Call, Log, Reply

_RUN, _NODE, _TASK = 1, 1, 1  # one run, one node in this process; the app sees no identity of the federation


class FlowerApp:
    """A ClientApp from an unpacked bundle, with its Context. One for each process: Flower's identity is global."""

    def __init__(
        self,
        client: ClientApp,
        context: Context,
        log: Log,
        *,
        messages: Mapping[Call, Mapping[str, Scalar]] | None = None,
        changes: Sequence[tuple[int, Mapping[Call, Mapping[str, Scalar]]]] = (),
    ) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _NODE, _TASK
        self._client = client
        self._context = context
        self._log = log
        self._messages = messages or {}
        self._changes = changes

    @classmethod
    def load(
        cls,
        app_dir: Path,
        *,
        config: Mapping[str, Scalar],
        node_config: Mapping[str, Scalar],
        log: Log,
        messages: Mapping[Call, Mapping[str, Scalar]] | None = None,
        changes: Sequence[Change] = (),
    ) -> FlowerApp:
        """Import the app in ``app_dir`` (from ``unpack_bundle``), with the plan's ``config`` over its own defaults.

        ``messages`` is what the plan says with every message of a kind: ``app.train_config``, ``app.evaluate_config``;
        ``changes`` what it says otherwise from later rounds on.

        Raises:
            AppError: BUNDLE_MALFORMED: no such ClientApp, or a config key that the app does not have.
                APP_FAILED: its code raised while it was imported.
        """
        try:
            project = get_project_config(app_dir)["tool"]["flwr"]["app"]
            defaults = flatten_dict(project.get("config", {}))
            reference = str(project["components"]["clientapp"])
        except (ValueError, KeyError, OSError) as error:
            log(f"pyproject.toml: {error}")
            raise AppError(
                Reason.BUNDLE_MALFORMED, "app bundle: pyproject.toml does not describe a Flower app"
            ) from None
        run_config = fuse_config(defaults, config)
        settings = {call: as_defaults(defaults, given) for call, given in (messages or {}).items()}
        later = [
            (
                change.from_round,
                {
                    Call.TRAIN: as_defaults(defaults, dict(change.train_config)),
                    Call.EVALUATE: as_defaults(defaults, dict(change.evaluate_config)),
                },
            )
            for change in changes
        ]

        def raised(error: BaseException) -> AppError:
            log(traceback.format_exc())
            return AppError(_why(error), "app: importing it raised; see the site's log")

        client = import_component(reference, app_dir.absolute(), ClientApp, raised=raised)
        context = Context(
            run_id=_RUN, node_id=_NODE, node_config=dict(node_config), state=RecordDict(), run_config=run_config
        )
        return cls(client, context, log, messages=settings, changes=later)

    def offers(self, call: Call) -> bool:
        """Whether the app registered ``@app.train()`` or ``@app.evaluate()``, or is of the older kind with both."""
        return self._is_legacy() or f"{call.value}.default" in self._client._registered_funcs

    def _is_legacy(self) -> bool:
        return self._client._call is not None

    def elsewhere(self, data: Path) -> FlowerApp:
        """The same app with a fresh Context, as it would find itself on the data in ``data``."""
        context, nodes = self._context, dict(self._context.node_config) | {"data-path": str(data)}
        fresh = Context(_RUN, _NODE, nodes, RecordDict(), context.run_config)
        return FlowerApp(self._client, fresh, self._log, messages=self._messages, changes=self._changes)

    def ask(self, call: Call, arrays: Arrays, *, round_number: int, rows: bool = False) -> Reply:
        """Send the app one message, as FedAvg's ``configure_train`` or ``configure_evaluate`` makes it.

        ``rows``: tell it, in the config of an evaluation, that it may answer with scores by row.

        Raises:
            AppError: APP_FAILED: it raised or answered with an error. APP_REPLY: other records than FedAvg takes.
        """
        if not self.offers(call):
            raise AppError(Reason.BUNDLE_MALFORMED, f"app: a function with @app.{call.value}() expected")
        content = legacy_request if self._is_legacy() else _request
        message = Message(content(call, arrays, round_number, self._said(call, round_number)), _NODE, call.value)
        if rows and not self._is_legacy():
            message.content.config_records["config"][ROWS] = True
        message.metadata.__dict__["_message_id"] = f"{call.value}-{round_number}"  # nor has Flower a public setter
        try:
            reply = self._client(message, self._context)
        except (Exception, SystemExit) as error:  # the shell around the member's code; what it says stays here
            self._log(traceback.format_exc())
            raise AppError(_why(error), f"app: its {call.value} function raised; see the site's log") from None
        return self._read(call, reply, list(arrays))

    def respond(self, message: AppMessage, node: int, number: int) -> AppMessage:
        """Hand the app a message of its own server, as the node ``node`` would get it from Flower.

        Raises:
            AppError: APP_FAILED: it raised or answered with an error. MESSAGE_FORM: its answer is no message.
        """
        TaskIdentity.node_id = _NODE  # whom the message comes from
        given = Message(flower_records(message.records), node, message.kind, group_id=message.group)
        given.metadata.__dict__["_message_id"] = f"{number}"
        TaskIdentity.node_id = self._context.node_id = node
        try:
            reply = self._client(given, self._context)
        except (Exception, SystemExit) as error:  # as above
            self._log(traceback.format_exc())
            raise AppError(_why(error), "app: its function raised; see the site's log") from None
        if not isinstance(reply, Message) or reply.has_error():
            if isinstance(reply, Message):
                self._log(f"the app answered with an error: {reply.error.reason}")
            raise AppError(Reason.APP_FAILED, "app: it answered with an error, or with no Message")
        return AppMessage(message.kind, message.group, plain_records(reply.content))

    def _said(self, call: Call, round_number: int) -> dict[str, Scalar]:
        """What the plan says with a message of this kind in this round."""
        said = dict(self._messages.get(call, {}))
        for from_round, settings in self._changes:
            if from_round <= round_number:
                said |= settings[call]
        return said

    def _read(self, call: Call, reply: object, names: list[str]) -> Reply:
        if not isinstance(reply, Message):
            raise AppError(Reason.APP_REPLY, "app's reply: a Message expected")
        if reply.has_error():
            self._log(f"the app answered with an error: {reply.error.reason}")
            raise AppError(Reason.APP_FAILED, f"app: its {call.value} function answered with an error")
        if self._is_legacy():
            return legacy_reply(call, reply.content, names)
        by_row = reply.content.pop(ROWS, None) if call is Call.EVALUATE else None  # never counted as a model
        arrays, metrics = list(reply.content.array_records.values()), list(reply.content.metric_records.values())
        if len(metrics) != 1 or len(arrays) != (1 if call is Call.TRAIN else 0):
            raise AppError(
                Reason.APP_REPLY, "app's reply: one MetricRecord, and from training one ArrayRecord, expected"
            )
        try:
            arrays += [by_row] if isinstance(by_row, ArrayRecord) else []
            named = {name: array.numpy() for record in arrays for name, array in record.items()}
        except (TypeError, ValueError, EOFError, OSError):
            raise AppError(Reason.APP_REPLY, "app's reply: arrays in Flower's NumPy form expected") from None
        return Reply(named, dict(metrics[0]))

    def require_query(self) -> None:
        """Refuse an app that has no ``@app.query()``.

        Raises:
            AppError: BUNDLE_MALFORMED.
        """
        if self._is_legacy() or "query.default" not in self._client._registered_funcs:
            raise AppError(Reason.BUNDLE_MALFORMED, "app: a function with @app.query() expected")

    def query(self, arrays: Arrays, inputs: Arrays) -> Arrays:
        """The arrays by name of the record ``scores`` that ``@app.query()`` answers to rows: ``inputs`` by column.

        Each call has a Context of its own: what an app notes there of one question, it does not find at the next.

        Raises:
            AppError: BUNDLE_MALFORMED: it has no such function. APP_FAILED: it raised or answered with an error.
                APP_REPLY: another record than ``scores``.
        """
        self.require_query()
        records: dict[str, Any] = {
            name: ArrayRecord({key: Array(array) for key, array in named.items()})
            for name, named in (("arrays", arrays), ("inputs", inputs))
        }
        context = replace(self._context, state=RecordDict(), run_config=dict(self._context.run_config))
        try:
            reply = self._client(Message(RecordDict(records), _NODE, "query"), context)
        except (Exception, SystemExit):  # as above
            self._log(traceback.format_exc())
            raise AppError(Reason.APP_FAILED, "app: its query function raised; see the log of the app") from None
        if not isinstance(reply, Message) or reply.has_error():
            raise AppError(Reason.APP_FAILED, "app: its query function answered with an error, or with no Message")
        try:
            return {name: array.numpy() for name, array in reply.content.array_records["scores"].items()}
        except (KeyError, TypeError, ValueError, EOFError, OSError):
            raise AppError(Reason.APP_REPLY, "app's reply: an ArrayRecord `scores` in NumPy form expected") from None


def _why(error: BaseException) -> Reason:
    return Reason.APP_MEMORY if isinstance(error, MemoryError) else Reason.APP_FAILED


def _request(call: Call, arrays: Arrays, round_number: int, settings: Mapping[str, Scalar]) -> RecordDict:
    """The records of FedAvg, for training and evaluation alike."""
    records: dict[str, Any] = {
        "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
        "config": ConfigRecord({**settings, "server-round": round_number}),
    }
    return RecordDict(records)
