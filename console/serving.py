"""Running a recipient runtime from the command line. Trust zone: the operator of the runtime, who is its host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from console import keyfiles
from console.documents import present
from console.enclaves import Papers, Stage, Surroundings, hardware_boot, required_chip, start_in_software
from console.files import MAX_CA_BYTES, read_bounded
from console.joining import read_worker_key
from console.opening import stored_release
from console.ordering import Desk
from console.output import Report, UserError
from console.running import NO_HARDWARE_PROTECTION, run_to_end
from console.tee_options import Tee
from trusted.apps.bundle import MAX_BUNDLE_BYTES
from trusted.channel.federation import Federation
from trusted.documents.dsse import MAX_ENVELOPE_BYTES
from trusted.documents.terms.scoring import ScoringLimits
from trusted.evidence.boot import Role
from trusted.release import verify_release
from trusted.wire import Json

LISTEN = "http://127.0.0.1:8446"
_PLAINTEXT = "http://"
_MAX_PEM_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class ServiceFiles:
    """Files of the runtime: ``site`` has its credential and that key; ``certificate`` and its key are for TLS."""

    site: Path
    bundle: Path
    log: Path
    certificate: Path | None = None
    certificate_key: Path | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """Whose key it asks for, where, and what it answers to whom.

    ``grantor`` is the member whose broker is at ``broker``; ``broker_ca`` the CA of its certificate.
    """

    grantor: str
    broker: str
    broker_ca: Path | None
    listen: str
    limits: ScoringLimits
    timeout_s: int

    @property
    def port(self) -> int:
        """The one on which it listens.

        Raises:
            UserError: ``listen`` names none.
        """
        port = self.listen.rpartition(":")[2]
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"--listen {self.listen}: no port", "Give address:port, with a port from 1 to 65535.")
        return int(port)


def serve_model(
    desk: Desk, files: ServiceFiles, service: Service, *, tee: Tee, chip: Path | None, report: Report
) -> int:
    """Fetch what was released, start the runtime, and stay with it until it ends; its exit status.

    Raises:
        ProtocolError, UserError, OSError: it could not be started; the release does not hold, or is not there.
    """
    port, papers = service.port, Papers(desk.charter, desk.plan)
    if service.listen.startswith(_PLAINTEXT) == (files.certificate is not None):
        hint = "Give --certificate and --certificate-key, or --listen http://127.0.0.1:PORT behind a proxy."
        raise UserError("a port beyond this machine needs a certificate, and plaintext needs none", hint)
    with Stage(files.log.parent) as stage:
        options = stage_service(stage, desk, files, service)
        if tee is Tee.HARDWARE:
            from recipient.__main__ import main

            return main(hardware_boot(Role.RECIPIENT, papers, options))
        around = service_surroundings(required_chip(chip), files.log, options, port)
        enclave = start_in_software(Role.RECIPIENT, papers, options, around)
        report.say(
            f"Started the recipient runtime, process {enclave.pid}: {NO_HARDWARE_PROTECTION}.",
            f"  measurement  {enclave.measurement.value.hex()}",
            f"  confined by  {', '.join(feature.value for feature in enclave.features) or 'nothing'}",
            f"  log          {files.log}",
            f"  the app's    {options['app_log']}",
        )
        report.data |= {"measurement": enclave.measurement.value.hex(), "pid": enclave.pid}
        return run_to_end(enclave, files.log, report.say)


def stage_service(stage: Stage, desk: Desk, files: ServiceFiles, service: Service) -> dict[str, Json]:
    """The start options, with the release and the sealed model (ciphertext) where the runtime can read them."""
    key = read_worker_key(files.site / keyfiles.WORKER_KEY)
    stored = stored_release(desk)
    released = verify_release(stored, Federation(desk.charter, desk.plan), present())
    sealed = stage.folder / "model.sealed"
    with sealed.open("xb") as file:
        for piece in desk.client.get_blob(desk.plan.digest, released.release.blob):
            file.write(piece)
    logs = stage.empty_folder(files.log.parent / f"{files.log.stem}-app")
    certificate, certificate_key = (
        "" if path is None else str(stage.put(name, read_bounded(path, _MAX_PEM_BYTES)))
        for name, path in (("tls.pem", files.certificate), ("tls.key", files.certificate_key))
    )
    ca = b"" if service.broker_ca is None else read_bounded(service.broker_ca, MAX_CA_BYTES)
    return {
        "release": str(stage.put("release", stored)),
        "sealed_model": str(stage.give(sealed)),
        "bundle": str(stage.put("app.fab", read_bounded(files.bundle, MAX_BUNDLE_BYTES))),
        "credential": read_bounded(files.site / keyfiles.CREDENTIAL, MAX_ENVELOPE_BYTES).decode(),
        "worker_key": str(stage.put("worker.key", key.private_bytes_raw())),
        "grantor": service.grantor,
        "broker": service.broker,
        "broker_ca_pem": ca.decode(),
        "listen": service.listen,
        "certificate": certificate,
        "certificate_key": certificate_key,
        "app_log": str(logs / "app.log"),
        "timeout_s": service.timeout_s,
        "limits": {**service.limits.to_json()},
    }


def service_surroundings(chip: Path, log: Path, options: Mapping[str, Json], port: int) -> Surroundings:
    """What a runtime of the software TEE with these start options gets: it reads what was staged, and listens."""
    staged = ("release", "sealed_model", "bundle", "worker_key", "certificate", "certificate_key")
    readable = tuple(Path(str(options[name])) for name in staged if options[name])
    writable = (Path(str(options["app_log"])).parent,)
    return Surroundings(chip, log, readable=readable, writable=writable, network=True, listen_port=port)
