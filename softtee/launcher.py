"""Start one measured enclave, and be its platform. Trust zone: the platform (measured as ``launcher``).

The launcher stands where hardware and firmware stand on a real machine: it measures what it starts, gives evidence
about exactly that and to nobody else, and has no part in what the enclave does. It protects nothing from the machine's
administrator; docs/adr/0002-software-tee.md lists what it does not protect.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from softtee import measured_boot, swtpm
from softtee.archive import member
from softtee.bytecode import bytecode_directory, prime
from softtee.chip import Chip
from softtee.chip_tpm import ChipTpm
from softtee.digests import DigestCache, private_directory
from softtee.enclave import Enclave, answer, await_features
from softtee.measure import LOCK, Interpreter, Measured, default_state, measured
from softtee.program import PROGRAMS, PROJECT_NAMES, Program
from softtee.scratch import scratch
from softtee.sealed import append_only, sealed
from softtee.sealing import chip_secret, enclave_key
from softtee.surroundings import environment, isolation_plan, own_mounts_possible, readable_paths
from softtee.swtpm import RunningTpm
from trusted.attestation.binding import host_data
from trusted.attestation.evidence import Evidence
from trusted.errors import Reason, TeeError
from trusted.evidence.boot import Role, encode_boot
from trusted.evidence.tpm import PcrChoice
from trusted.wire import Json

# Threads that all look at 60,000 files at once would only fight for the interpreter: they take turns.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of an enclave.

    Attributes:
        role: which enclave.
        charter: DSSE envelope of the charter; the enclave verifies it.
        plan: DSSE envelope of the plan; the enclave verifies it.
        charter_digest: 32 bytes, bound into the evidence; a wrong one makes evidence that no peer accepts.
        plan_digest: 32 bytes, the same.
        chip_directory: the software chip that signs evidence (``softtee.Chip``). The enclave cannot read it.
        log: a file that gets the enclave's output, JSON lines; made 0600.
        options: untrusted start options for the entry (addresses, paths).
        readable: further paths it may read; they must be readable by :func:`softtee.surroundings.enclave_uid`.
        writable: further paths it may write, among them the directory of its door's Unix socket.
        network: whether it may use IP. Without it, no socket but Unix ones.
        listen_port: the one TCP port on which it may listen, with ``network``; None: on none.
        tpm: which PCRs the chip's TPM quotes for the enclave; None starts no TPM.
        expect: the measurement, 48 bytes, that must come out; None starts whatever is there.
        threads: for numeric libraries.
        program: another program than the role's own. For tests; its measurement differs.
        lock: the file that pins all installed versions.
        interpreter: another Python installation than the one that runs the launcher.
        state: private directory for cached digests and bytecode; None is this user's default.
        rehash: read every measured file again, whatever the cache says.
    """

    role: Role
    charter: bytes
    plan: bytes
    charter_digest: bytes
    plan_digest: bytes
    chip_directory: Path
    log: Path
    options: Mapping[str, Json] = field(default_factory=dict)
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False
    listen_port: int | None = None
    tpm: PcrChoice | None = None
    expect: bytes | None = None
    threads: int = 1
    program: Program | None = None
    lock: Path = LOCK
    interpreter: Interpreter | None = None
    state: Path | None = None
    rehash: bool = False


def launch(start: Launch) -> Enclave:
    """Measure, start and confine one enclave; true afterwards: its confinement is complete and its entry is starting.

    Raises:
        TeeError: LAUNCH_MEASUREMENT, it is not what ``expect`` says (nothing was started); LAUNCH_FAILED, it ended
            before its entry began (the log says why); TEE_DEVICE_MISSING, the chip has no TPM, or there is no swtpm.
        ValueError: something to measure is missing, or a named path does not exist.
    """
    for path in (*start.readable, *start.writable):
        if not path.is_absolute() or not path.exists():
            raise ValueError(f"launch: {path}: an absolute path that exists expected; make it before the start")
    state = private_directory(start.state or default_state())
    interpreter = start.interpreter or Interpreter.running()
    cache = DigestCache(state, rehash=start.rehash)
    with _ONE_AT_A_TIME:
        image = measured(start.role, program=start.program, lock=start.lock, cache=cache, interpreter=interpreter)
    if start.expect is not None and start.expect != image.measurement.value:
        raise TeeError(
            Reason.LAUNCH_MEASUREMENT, "launch: what would start is not what `expect` says; nothing was started"
        )
    return _Platform(start, image, interpreter, state).start()


class _Platform:
    """One enclave's platform: a thread that starts it, answers it, and lives as long as it does.

    The starting thread must outlive the enclave, because the kernel sends the parent-death signal when it ends.
    """

    def __init__(self, start: Launch, image: Measured, interpreter: Interpreter, state: Path) -> None:
        self._start = start
        self._image = image
        self._interpreter = interpreter
        self._chip = Chip.load(start.chip_directory)
        self._secret = chip_secret(start.chip_directory)
        self._host_data = host_data(start.role.value, start.charter_digest, start.plan_digest)
        self._bytecode = bytecode_directory(state, image.measurement.parts)
        self._program = start.program or PROGRAMS[start.role]
        self._chip_tpm = None if start.tpm is None else ChipTpm.load(start.chip_directory)
        self._state = state
        self._outcome: queue.Queue[Enclave | Exception] = queue.Queue(1)

    def start(self) -> Enclave:
        """The running enclave, once it reported its confinement."""
        threading.Thread(target=self._live, name=f"platform-{self._start.role.value}", daemon=True).start()
        outcome = self._outcome.get()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _live(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                private = scratch(stack, self._state)
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                stack.enter_context(ours)
                process, enclave = self._run(theirs, private, self._switched_on(stack))
            except Exception as error:  # handed to the caller of start(), in its thread
                self._outcome.put(error)
                return
            self._outcome.put(enclave)
            answer(ours, self._evidence, self._sealing_key)
            process.wait()

    def _switched_on(self, stack: contextlib.ExitStack) -> RunningTpm | None:
        """The chip's TPM, if one was asked for, with what is about to start measured into it."""
        if self._chip_tpm is None:
            return None
        tpm = stack.enter_context(swtpm.running(self._chip_tpm.state))
        measured_boot.measure_into(tpm.client, self._image.measurement.parts)
        return tpm

    def _run(
        self, theirs: socket.socket, private: Path, tpm: RunningTpm | None
    ) -> tuple[subprocess.Popen[bytes], Enclave]:
        """Start the process and wait until it is confined."""
        surroundings = environment(private, self._start.threads)
        prime(self._bytecode, self._interpreter, self._program.warm, surroundings)
        with contextlib.ExitStack() as stack:
            stack.enter_context(theirs)
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
            stack.callback(os.close, read_end)
            status = stack.enter_context(open(write_end, "wb"))
            passed = {"platform": theirs.fileno(), "status": write_end, **self._sealed_inputs(stack)}
            if tpm is not None:
                passed["tpm"] = tpm.line.fileno()
            document = sealed(stack, json.dumps({**self._document(private), **passed}).encode())
            shim = sealed(stack, member(self._image.launcher, "softtee/shim.py"))
            log = stack.enter_context(append_only(self._start.log))
            process = subprocess.Popen(
                self._command(shim, document),
                env=surroundings,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(shim, document, *passed.values()),
                start_new_session=True,
            )
            # Only the child may hold these now, or their end could not be noticed.
            status.close()
            theirs.close()
            if tpm is not None:
                tpm.line.close()
            features = await_features(read_end)
        if features is None:
            process.kill()
            process.wait()
            raise TeeError(Reason.LAUNCH_FAILED, f"launch: ended before its entry began; see {self._start.log}")
        return process, Enclave(process, self._image.measurement, features)

    def _sealed_inputs(self, stack: contextlib.ExitStack) -> dict[str, int]:
        start = self._start
        contents = {
            "code": self._image.code,
            "launcher": self._image.launcher,
            "boot": encode_boot(start.role, start.charter, start.plan, dict(start.options)),
        }
        if start.tpm is not None:
            contents["tpm_log"] = measured_boot.event_log(self._image.measurement.parts)
        return {name: sealed(stack, content) for name, content in contents.items()}

    def _command(self, shim: int, document: int) -> list[str]:
        # -I: no environment, no user site, no current directory. -S: no .pth file runs code. -B: writes no bytecode.
        flags = ["-I", "-S", "-B", "-X", f"pycache_prefix={self._bytecode}"]
        return [str(self._interpreter.executable), *flags, f"/proc/self/fd/{shim}", f"/proc/self/fd/{document}"]

    def _document(self, private: Path) -> dict[str, object]:
        """What the shim does, apart from descriptors. Only paths and names; the boot record travels by itself."""
        own_mounts = own_mounts_possible()
        own = readable_paths(self._interpreter, self._bytecode)
        readable = (*own, *map(str, self._start.readable))
        writable = (str(private), "/dev/null", *map(str, self._start.writable))
        if own_mounts:
            writable = (*writable, "/dev/shm")  # noqa: S108 - its own tmpfs
        own_network = not self._start.network
        return {
            "site": str(self._interpreter.site),
            "names": sorted({*PROJECT_NAMES, *(package.partition("/")[0] for package in self._program.packages)}),
            "entry": self._program.entry,
            "parent": os.getpid(),
            "isolation": isolation_plan(private, readable=readable, writable=writable, own_network=own_network),
            "limits": {
                "readable": readable,
                "writable": writable,
                "connect_ports": None if self._start.network else [],
                "listen_ports": [] if self._start.listen_port is None else [self._start.listen_port],
            },
            "tpm_quotes": self._tpm_quotes(),
        }

    def _tpm_quotes(self) -> dict[str, object] | None:
        """What the enclave needs to quote with its TPM; None where it has none."""
        choice = self._start.tpm
        if choice is None or self._chip_tpm is None:
            return None
        certificates = [der.hex() for der in self._chip_tpm.certificates]
        return {"bank": choice.bank.name, "indexes": choice.indexes, "certificates": certificates}

    def _evidence(self, report_data: bytes) -> Evidence:
        """Evidence about exactly what this platform started: the enclave chooses its report data and nothing else."""
        measurement = self._image.measurement.value
        return self._chip.attest(report_data=report_data, measurement=measurement, host_data=self._host_data)

    def _sealing_key(self) -> bytes:
        """The key of exactly what this platform started: the enclave chooses nothing of it."""
        measurement, role = self._image.measurement.value, self._start.role.value
        return enclave_key(self._secret, chip_id=self._chip.chip_id, measurement=measurement, role=role)
