"""Running an aggregator enclave from the command line. Trust zone: operator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from console.enclaves import Papers, Stage, Surroundings, hardware_boot, required_chip, start_in_software
from console.files import read_bounded
from console.output import Report, UserError
from console.running import NO_HARDWARE_PROTECTION, run_to_end
from console.tee_options import Tee
from coordinator.door import Address, Family
from trusted.apps.bundle import MAX_BUNDLE_BYTES
from trusted.documents.terms import Rule
from trusted.evidence.boot import Role
from trusted.wire import Json


def serve_aggregator(
    papers: Papers, doors: Sequence[str], *, tee: Tee, chip: Path | None, log: Path, report: Report, bundle: Path | None
) -> int:
    """Run the enclave behind the door of every replica of the host to its end; its exit status.

    ``bundle``: the app's, for a plan whose server the app brings itself.

    Raises:
        ProtocolError, UserError, OSError: it could not be started.
    """
    addresses = [Address.parse(door) for door in doors]
    options: dict[str, Json] = {"doors": [str(address) for address in addresses]}
    has_server_app = papers.plan.document.aggregation.rule is Rule.SERVER_APP
    if has_server_app and bundle is None:
        raise UserError("the app's own server runs in the aggregator under this plan", "Give --bundle, the app's.")
    if has_server_app:
        options["bundle"] = str(bundle)
    if tee is Tee.HARDWARE:
        from coordinator.enclave.__main__ import main

        return main(hardware_boot(Role.AGGREGATOR, papers, options))
    folders = [Path(address.host).parent for address in addresses if address.family is Family.UNIX]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder", "Give --door as `cloister coordinator serve` printed it.")
    with Stage(log.parent) as stage:
        tcp = any(address.family is Family.TCP for address in addresses)
        readable: tuple[Path, ...] = ()
        if has_server_app and bundle is not None:
            readable = (stage.put("app.fab", read_bounded(bundle, MAX_BUNDLE_BYTES)),)
            options["bundle"] = str(readable[0])
        writable = tuple(folders or [stage.folder])
        around = Surroundings(required_chip(chip), log, readable=readable, writable=writable, network=tcp)
        enclave = start_in_software(Role.AGGREGATOR, papers, options, around)
        report.say(
            f"Started the aggregator enclave, process {enclave.pid}: {NO_HARDWARE_PROTECTION}.",
            f"  measurement  {enclave.measurement.value.hex()}",
            f"  confined by  {', '.join(feature.value for feature in enclave.features) or 'nothing'}",
            f"  log          {log}",
        )
        report.data |= {"measurement": enclave.measurement.value.hex(), "pid": enclave.pid}
        return run_to_end(enclave, log, report.say)
