"""One deployed federation, measured: a host process, an aggregator process, worker processes; gRPC, TLS, door, disk.

Trust zone: the developer's machine; process shell, ``python -m benchmarks.deployment '{…}'``. What is left out is the
launcher's confinement and the training: workers answer at once with an update that they hold. Everything is sealed
and attested (or, asked for plain copies, everything but that). One JSON object on stdout.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from secrets import token_bytes
from typing import Any

import numpy as np

from benchmarks.consortium import Consortium, Terms
from benchmarks.plain_copies import replace_sealing
from benchmarks.processor_time import Spent
from benchmarks.worker_processes import Address, serve_members
from softtee.chip import SoftwareRoot
from trusted.documents.layout import Dtype, Layout, TensorSpec, initial_digest
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.evidence.boot import Boot, Role

_REPOSITORY = Path(__file__).resolve().parent.parent
_SAMPLE_S = 0.2
_PR_SET_PDEATHSIG = 1
HOST_LIMITS = {  # every worker of a benchmark has this machine's address
    "streams_per_peer": 1 << 20,
    "handshakes_per_peer": 1 << 14,
    "attaches_at_once": 1 << 14,
    "calls_at_once": 1 << 20,
    "sessions_per_plan": 1 << 14,
    "free_disk_bytes": 1 << 20,
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to measure.

    Attributes:
        workers: members, each with an update of its own in every round.
        processes: in which the workers live.
        elements: float32 numbers of the model.
        tensors: into how many it is cut.
        rounds: how many are committed; the first one is not warm.
        encoding: of updates, as a plan names it.
        plain: nothing is sealed.
        crowd: many workers in each process, without threads and models of their own.
        tls: between workers and host; without it the host listens on loopback in plaintext.
        training_s: how long a worker takes over an update, but for a crowd's.
    """

    workers: int
    processes: int
    elements: int
    tensors: int = 1
    rounds: int = 5
    encoding: str = "float32"
    plain: bool = False
    crowd: bool = False
    tls: bool = True
    training_s: float = 0.0


def measure(spec: Deployment) -> dict[str, Any]:
    """Deploy, run to the end, and say how long each round took and what memory the processes reached."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="cloister-benchmark-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        initial = np.zeros(spec.elements, dtype="<f4")
        now = datetime.now(UTC).replace(microsecond=0)
        consortium = Consortium.of(SoftwareRoot.create(now=now), terms_of(spec, initial), now)
        host, address = _start_host(stack, folder, consortium, tls=spec.tls)
        aggregator = _start_aggregator(stack, folder, spec, consortium)
        one = np.full(1, 1e-3, dtype="<f4")
        update = np.broadcast_to(one, spec.elements) if spec.crowd else np.repeat(one, spec.elements)
        workers: list[int] = []
        for place in range(spec.processes):
            members = list(consortium.keys)[place :: spec.processes]

            def work(members: list[str] = members) -> None:
                serve = crowd if spec.crowd else serve_members
                serve(consortium, members, address, initial=initial, update=update)

            workers.append(fork(stack, folder / f"workers-{place}.log", spec, work))
        peaks = stack.enter_context(_peaks({"host": host.pid, "aggregator": aggregator}))
        kinds = {"host": [host.pid], "aggregator": [aggregator], "workers": workers}
        stack.enter_context(failing_with([aggregator, *workers]))
        try:
            found = _run(consortium, address, kinds)
        except BaseException:
            show_logs(folder)
            raise
        return {"spec": asdict(spec), **found, **peaks.to_json(), "sealed": not spec.plain}


def show_logs(folder: Path) -> None:
    """The end of every process' log, for whoever asks why nothing was measured."""
    for log in sorted(folder.glob("*.log")):
        print(f"--- {log.name}", log.read_text(errors="replace")[-20000:], sep="\n", file=sys.stderr)


def crowd(*arguments: Any, **vectors: Any) -> None:
    """As :func:`serve_members`, for many in one process. gRPC is imported in the child alone."""
    import asyncio

    from benchmarks.crowd import serve_crowd

    asyncio.run(serve_crowd(*arguments, **vectors))


def terms_of(spec: Deployment, initial: np.ndarray[Any, Any]) -> Terms:
    """What the plan of this deployment says."""
    share = spec.elements // spec.tensors
    sizes = [share] * (spec.tensors - 1) + [spec.elements - share * (spec.tensors - 1)]
    layout = Layout(tuple(TensorSpec(f"t{n}", Dtype.FLOAT32, (size,)) for n, size in enumerate(sizes)))
    exchange = Exchange(update=Encoding[spec.encoding.upper()])
    digest = initial_digest(layout, initial.data.cast("B"))
    return Terms(spec.workers, layout, digest, spec.rounds, exchange)


def _start_host(
    stack: ExitStack, folder: Path, consortium: Consortium, *, tls: bool
) -> tuple[subprocess.Popen[bytes], Address]:
    (folder / "charter.json").write_bytes(consortium.charter.envelope)
    scheme = "" if tls else "http://"
    config = {"state": "host", "listen": f"{scheme}127.0.0.1:0", "door": f"unix:{folder}/host/door/door.sock"}
    config |= {"blob_listen": f"{scheme}127.0.0.1:0"}
    config |= {"charter": "charter.json", "limits": HOST_LIMITS}  # type: ignore[dict-item]
    (folder / "host.json").write_text(json.dumps(config))
    log = stack.enter_context((folder / "host.log").open("wb"))
    host = subprocess.Popen(
        host_command(folder)[1],
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=_REPOSITORY,
        preexec_fn=_die_with_parent,  # no threads run yet
    )
    stack.callback(_end, host)
    words = dict(word.split("=", 1) for word in host.stdout.readline().decode().split()[1:]) if host.stdout else {}
    if "port" not in words:
        raise RuntimeError(f"the host did not start: {(folder / 'host.log').read_text()}")
    ca = Path(words["ca"]).read_bytes() if tls else b""
    return host, Address(f"{scheme}127.0.0.1:{words['port']}", ca, words["door"])


def host_command(folder: Path) -> tuple[str, list[str]]:
    """How the host of ``folder`` is started: its program, and the arguments from the program's name on."""
    return sys.executable, [sys.executable, "-m", "coordinator.host", str(folder / "host.json")]


def _start_aggregator(stack: ExitStack, folder: Path, spec: Deployment, consortium: Consortium) -> int:
    serve = serve_aggregator(consortium, f"unix:{folder}/host/door/door.sock")
    return fork(stack, folder / "aggregator.log", spec, serve)


def serve_aggregator(consortium: Consortium, door: str) -> Callable[[], None]:
    """The work of an aggregator's process, on a chip of its own."""
    envelopes = consortium.charter.envelope, consortium.plan.envelope
    provider = consortium.provider(Role.AGGREGATOR.value)

    def serve() -> None:
        from coordinator.enclave.__main__ import main

        main(Boot(Role.AGGREGATOR, *envelopes, {"doors": [door]}, provider))

    return serve


def fork(stack: ExitStack, log: Path, spec: Deployment, work: Callable[[], None]) -> int:
    """Do ``work`` in a child that ends with this process. gRPC is not yet imported here."""
    pid = os.fork()
    if pid:
        stack.callback(_reap, pid)
        return pid
    code = 1
    try:
        _die_with_parent()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.dup2(descriptor, 1)
        if spec.plain:
            replace_sealing()
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


@contextmanager
def failing_with(pids: list[int]) -> Iterator[None]:
    """While this holds, the end of one of these children with an error is one here: nothing would come any more."""

    def look(*_: object) -> None:
        for pid in pids:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # left for who reaps it
            if ended is not None and (ended.si_code, ended.si_status) != (os.CLD_EXITED, 0):
                raise RuntimeError(f"process {pid} of the federation failed: its log stands above")

    before = signal.signal(signal.SIGCHLD, look)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(20)


@dataclass(slots=True)
class _Peaks:
    """The highest resident memory of each process so far, in MB, and its highest number of open descriptors."""

    memory_mb: dict[str, float] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)

    def see(self, name: str, pid: int) -> None:
        """Look once; a process that is gone has no more peaks."""
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            open_now = len(os.listdir(f"/proc/{pid}/fd"))
        except OSError:
            return
        self.descriptors[name] = max(self.descriptors.get(name, 0), open_now)
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                self.memory_mb[name] = max(self.memory_mb.get(name, 0.0), int(line.split()[1]) * 1024 / 1e6)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"peak_mb": dict(self.memory_mb), "descriptors": dict(self.descriptors)}


@contextmanager
def _peaks(pids: dict[str, int]) -> Iterator[_Peaks]:
    """Kept up to date until it is left."""
    peaks, over = _Peaks(), threading.Event()

    def watch() -> None:
        while not over.wait(_SAMPLE_S):
            for name, pid in pids.items():
                peaks.see(name, pid)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _run(consortium: Consortium, address: Address, kinds: dict[str, list[int]]) -> dict[str, Any]:
    """Start the run and follow it: seconds of each round, from one commit to the next, and of each stage.

    ``kinds`` are the processes whose time on a core is told, in the mean over warm rounds. They are looked at twice
    only: to look is a tenth of a small round's work.
    """
    from console.client import HostClient

    plan = consortium.plan.digest
    last = max(2, consortium.plan.document.rounds - 1)  # in the last round workers may be gone already
    admitted: list[float] = []
    committed: list[float] = []
    spent: list[dict[str, Spent]] = []
    stages: list[Any] = []
    started = time.monotonic()
    with HostClient(address.target, address.ca or None) as client:
        client.submit(start_order(consortium))
        for event in client.watch(plan):
            name = event.fields.get("event")
            if name == "admitted":
                admitted.append(time.monotonic() - started)
            elif name == "round-committed":
                committed.append(time.monotonic())
                if len(committed) in (1, last):
                    spent.append({kind: Spent.of(pids) for kind, pids in kinds.items()})
            elif name == "round-stages":
                stages.append(event.fields["metrics"])
            elif name == "round-abandoned":
                raise RuntimeError("a round was abandoned: the figures would mean nothing")
            elif name == "run-ended":
                break
    rounds = [later - earlier for earlier, later in pairwise(committed)]
    costs = {kind: spent[0][kind].until(spent[-1][kind], last - 1) for kind in kinds}
    return {"warm_rounds_s": rounds, "stages": stages[1:], "admitted_s": admitted, "costs": costs}


def start_order(consortium: Consortium) -> bytes:
    """The first member's order to start, signed now."""
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    from trusted.documents import order
    from trusted.documents.dsse import new_envelope, sign
    from trusted.documents.order import Action, Order

    issued = datetime.now(UTC).replace(microsecond=0)
    document = Order(Action.START, consortium.plan.digest, "site-1", token_bytes(16), issued)
    signer = CryptoSigner(consortium.keys["site-1"])
    return sign(new_envelope(document.encode(), order.PAYLOAD_TYPE), signer).encode()


if __name__ == "__main__":
    print(json.dumps(measure(Deployment(**json.loads(sys.argv[1])))), flush=True)
