"""What one core of this machine needs in each stage, measured or read back. Trust zone: the developer's machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from console.output import UserError
from simulations.costs.blob_port import blob_port_rates
from simulations.costs.disk import disk_rates
from simulations.costs.grpc_limit import Traffic, move
from simulations.costs.machine import machine
from simulations.costs.rates import Rate
from simulations.costs.sockets import socket_rates
from simulations.costs.stages import stage_rates

_VERSION = 2
_CALLERS = 4  # processes that make the small calls
_CALLS_A_PASS = 2
_PASSES = 3
_STAGES = {
    "seal": "seal, FLOE",
    "open": "open, FLOE",
    "check": "check, as the aggregator does",
    "fold": "fold, as the aggregator does",
}

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes a second of one core (of both ends where two processes pass them), and seconds of one small call.

    ``down``, ``up``: between a worker and the disk of a host, over its blob port. ``cores``: how many the measured
    machine has.
    """

    seal: float
    open: float
    check: float
    fold: float
    socket: float
    disk: float
    down: float
    up: float
    call_s: float
    cores: int
    processor: str = ""

    @classmethod
    def measure(cls, *, seconds: float = 0.3, megabytes: int = 50, told: Told | None = None) -> Costs:
        """Measure each stage for so many ``seconds``, and ``megabytes`` through sockets and a host: half a minute.

        Raises:
            NotMeasured: a process of the measurement failed or was late.
        """
        tell = told or _unheard
        found_on = machine()
        tell("sealing, opening, folding")
        rates = {rate.what: rate for rate in stage_rates(seconds)}
        stages = {name: _bytes_per_s(rates[what]) for name, what in _STAGES.items()}
        tell("sockets and disk")
        unix, _ = socket_rates(megabytes=megabytes, passes=_PASSES)
        written, _ = disk_rates(megabytes=megabytes, passes=_PASSES)
        tell("a host, and gRPC")
        down, up = blob_port_rates(megabytes=megabytes, passes=_PASSES)
        small = min(move(Traffic(_CALLERS, 1, 1), passes=4 * _PASSES)) / (_CALLERS * _CALLS_A_PASS)
        return cls(
            **stages,
            socket=_bytes_per_s(unix),
            disk=_bytes_per_s(written),
            down=_bytes_per_s(down),
            up=_bytes_per_s(up),
            call_s=small,
            cores=int(found_on["cores"] or 1),
            processor=str(found_on["processor"]),
        )

    @classmethod
    def read(cls, path: Path) -> Costs:
        """What :meth:`save` wrote, on this machine or another.

        Raises:
            UserError: it is something else. OSError: it cannot be read.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            values = {field.name: record["costs"][field.name] for field in fields(cls)}
            found = cls(**values)
            if record["schema_version"] != _VERSION or not all(value > 0 for value in found._numbers()):
                raise ValueError("not positive")
        except (KeyError, TypeError, ValueError):
            hint = "Measure them with `cloister simulate capacity --save-costs FILE` on the machine in question."
            raise UserError(f"{path}: no measured costs", hint) from None
        return found

    def save(self, path: Path) -> None:
        """Write them, for a machine that is to be planned for elsewhere."""
        from console.files import write_file

        text = json.dumps({"schema_version": _VERSION, "costs": self.to_json()}, indent=1)
        write_file(path, f"{text}\n".encode(), force=True)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def _numbers(self) -> list[float]:
        return [getattr(self, field.name) for field in fields(self) if field.name != "processor"]


def _bytes_per_s(rate: Rate) -> float:
    """The best pass: on a shared machine the one that others disturbed least."""
    return rate.best * 1e9


def _unheard(text: str) -> None:
    """Nobody asked how far it is."""
