"""Running a worker enclave from the command line. Trust zone: the member's operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from console import keyfiles
from console.enclaves import (
    Papers,
    Stage,
    Surroundings,
    hardware_boot,
    kept_collateral,
    required_chip,
    start_in_software,
)
from console.files import MAX_CA_BYTES, read_bounded
from console.initial_model import read_initial_model
from console.output import Report, UserError
from console.running import NO_HARDWARE_PROTECTION, run_to_end
from console.tee_options import Tee
from trusted.apps.bundle import MAX_BUNDLE_BYTES
from trusted.documents.dsse import MAX_ENVELOPE_BYTES
from trusted.evidence.boot import Role
from trusted.wire import Json
from worker.dataset import sealed_header

SITE_POLICY = "site-policy.dsse.json"
CONTROL = "control"  # beside a site's papers: what its operator wants of its workers
STATE = "state"  # beside a site's papers, unless its operator says otherwise
_MAX_KEY_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class KeyBroker:
    """Where the key of sealed data is fetched: ``name:port``, and the CA of its certificate (None: the public ones)."""

    target: str = ""
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class SiteFiles:
    """A member's files: its folder of papers, its data, the app, and the initial model where this site brings it.

    ``state`` is where its workers remember across restarts, each plan in a folder of its own; None: nowhere.
    """

    folder: Path
    data: Path
    bundle: Path
    initial_model: Path | None
    log: Path
    state: Path | None = None
    broker: KeyBroker = KeyBroker()
    app_memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """How the worker reaches the replicas of its coordinator, the only places it dials; any of the CAs may vouch."""

    coordinators: tuple[str, ...]
    cas: tuple[Path, ...]
    proxy: str


def join_run(papers: Papers, files: SiteFiles, route: Route, *, tee: Tee, chip: Path | None, report: Report) -> int:
    """Run the enclave to its end; its exit status.

    Raises:
        ProtocolError, UserError, OSError: it could not be started; nothing has been sent to anybody.
    """
    if not files.folder.is_dir():
        raise UserError(f"{files.folder}: no such folder", "Give --site as `cloister member credential --out` made it.")
    with Stage(files.log.parent) as stage:
        options = stage_site(stage, papers, files, route)
        if tee is Tee.HARDWARE:
            from worker.__main__ import main

            return main(hardware_boot(Role.WORKER, papers, options | {"collateral_store": kept_collateral()}))
        around = worker_surroundings(required_chip(chip), files.log, options)
        enclave = start_in_software(Role.WORKER, papers, options, around)
        report.say(
            f"Started the worker enclave, process {enclave.pid}: {NO_HARDWARE_PROTECTION}.",
            f"  measurement  {enclave.measurement.value.hex()}",
            f"  confined by  {', '.join(feature.value for feature in enclave.features) or 'nothing'}",
            f"  log          {files.log}",
            f"  the app's    {options['app_log']}, sealed: cloister worker log --key sealing-key.pem",
            f"  remembers in {options['state'] or 'no folder: a restart of this worker begins anew'}",
        )
        report.data |= {"measurement": enclave.measurement.value.hex(), "pid": enclave.pid}
        return run_to_end(enclave, files.log, report.say)


def stage_site(stage: Stage, papers: Papers, files: SiteFiles, route: Route) -> dict[str, Json]:
    """The worker's start options, with every file where its enclave can read it and nobody else."""
    key = read_worker_key(files.folder / keyfiles.WORKER_KEY)
    initial = ""
    if files.initial_model is not None:
        model = read_initial_model(files.initial_model)
        if model.digest != papers.plan.document.initial_sha256:
            raise UserError(
                f"{files.initial_model}: not the initial model of this plan", "Give the file that `plan new` was given."
            )
        initial = str(stage.put("initial.f32", model.vector.tobytes()))
    if not files.data.exists():
        raise UserError(
            f"{files.data}: no such file or folder", "Give the member's CSV file, a folder, or a sealed file."
        )
    if sealed_header(files.data) is not None and not files.broker.target:
        raise UserError(f"{files.data} is sealed", "Give --key-broker, the member's key broker.")
    if files.data.is_file() and files.data.suffix == ".parquet":
        raise UserError(f"{files.data}: a worker reads CSV and sealed files", "Seal it: cloister data seal.")
    broker_ca = b"" if files.broker.ca is None else read_bounded(files.broker.ca, MAX_CA_BYTES)
    logs = stage.empty_folder(files.log.parent / f"{files.log.stem}-app")
    return {
        "coordinators": list(route.coordinators),
        "ca_pem": "".join(read_bounded(ca, MAX_CA_BYTES).decode() for ca in route.cas),
        "proxy": route.proxy,
        "site_policy": read_bounded(files.folder / SITE_POLICY, MAX_ENVELOPE_BYTES).decode(),
        "credential": read_bounded(files.folder / keyfiles.CREDENTIAL, MAX_ENVELOPE_BYTES).decode(),
        "worker_key": str(stage.put("worker.key", key.private_bytes_raw())),
        "bundle": str(stage.put("app.fab", read_bounded(files.bundle, MAX_BUNDLE_BYTES))),
        "data": str(stage.copy(files.data)),
        "initial_model": initial,
        "app_log": str(logs / "app.log"),
        "collateral_store": "",
        "control": _control(files.folder, papers.plan.digest),
        "app_memory_mib": files.app_memory_mib,
        "state": "" if files.state is None else str(_memory(stage, files.state, papers.plan.digest)),
        "key_broker": files.broker.target,
        "key_broker_ca": broker_ca.decode(),
    }


def worker_surroundings(chip: Path, log: Path, options: Mapping[str, Json]) -> Surroundings:
    """What a worker of the software TEE with these start options gets: it reads what was staged and what its operator
    wants, and writes its app's log and its own memory."""
    staged = ("worker_key", "bundle", "data", "initial_model", "control")
    readable = tuple(Path(str(options[name])) for name in staged if options[name])
    writable = [Path(str(options["app_log"])).parent]
    if options["state"]:
        writable.append(Path(str(options["state"])))
    return Surroundings(chip, log, readable=readable, writable=tuple(writable), network=True)


def _memory(stage: Stage, state: Path, plan: bytes) -> Path:
    """The folder below ``state`` for the plan with this digest: no run stands in the way of another one's memory."""
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = stage.empty_folder(state / plan.hex())
    folder.chmod(0o700)
    return folder


def control_folder(site: Path, plan: bytes) -> Path:
    """Where the operator of ``site`` says what its worker for the plan with this digest is to do; made if need be.

    Raises:
        OSError: it cannot be made.
    """
    folder = site.resolve() / CONTROL / plan.hex()
    for made in (folder.parent, folder):
        made.mkdir(exist_ok=True)
        made.chmod(0o755)  # an enclave has a user of its own, and reads it
    return folder


def _control(site: Path, plan: bytes) -> str:
    try:
        return str(control_folder(site, plan))
    except OSError:  # papers on a disk that is only read: SIGTERM is heard all the same
        return ""


def read_worker_key(path: Path) -> Ed25519PrivateKey:
    """The key that a member's credential names, which a machine of its own may hold: a file without a passphrase.

    Raises:
        UserError: something else. OSError: it cannot be read.
    """
    hint = "Give the folder that `cloister member credential --out` made."
    try:
        key = load_pem_private_key(read_bounded(path, _MAX_KEY_BYTES), None)
    except (ValueError, TypeError):
        raise UserError(f"{path}: not a private key in PEM without passphrase", hint) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: not an Ed25519 private key", hint)
    return key
