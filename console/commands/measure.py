"""``cloister measure``: reference values, predicted without starting anything. Trust zone: operator."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from console.output import JsonOption, Report, UserError, reporting
from trusted.evidence.boot import Role

if TYPE_CHECKING:
    from console.reference_values import ReferenceValues

app = typer.Typer(no_args_is_help=True, help="Predict what a platform will measure, for the charter.")

Rehash = Annotated[bool, typer.Option("--rehash", help="Read every file again, whatever is cached.")]
Fragment = Annotated[
    bool, typer.Option("--fragment", help="Print only the JSON that goes into the charter's policy for this platform.")
]


class HypervisorOption(Enum):
    """Who starts a guest, as the command line spells it."""

    QEMU = "qemu"
    EC2 = "ec2"
    GCE = "gce"


class BankOption(Enum):
    """The PCR bank, as the command line spells it."""

    SHA256 = "sha256"
    SHA384 = "sha384"


@app.command(epilog="Example: cloister measure aggregator")
def aggregator(rehash: Rehash = False, fragment: Fragment = False, json_output: JsonOption = False) -> None:
    """Software TEE: what `cloister aggregator serve` would start here. NO HARDWARE PROTECTION.

    Two machines agree when they have the same interpreter, the same locked packages and the same Cloister.
    """
    _installed(Role.AGGREGATOR, rehash=rehash, fragment=fragment, json_output=json_output)


@app.command(epilog="Example: cloister measure worker")
def worker(rehash: Rehash = False, fragment: Fragment = False, json_output: JsonOption = False) -> None:
    """Software TEE: what `cloister worker join` would start here. NO HARDWARE PROTECTION.

    Two machines agree when they have the same interpreter, the same locked packages and the same Cloister.
    """
    _installed(Role.WORKER, rehash=rehash, fragment=fragment, json_output=json_output)


@app.command(epilog="Example: cloister measure recipient")
def recipient(rehash: Rehash = False, fragment: Fragment = False, json_output: JsonOption = False) -> None:
    """Software TEE: what `cloister model serve` would start here. NO HARDWARE PROTECTION.

    Two machines agree when they have the same interpreter, the same locked packages and the same Cloister.
    """
    _installed(Role.RECIPIENT, rehash=rehash, fragment=fragment, json_output=json_output)


def _installed(role: Role, *, rehash: bool, fragment: bool, json_output: bool) -> None:
    with reporting(json_output) as report:
        from dataclasses import asdict

        from console.reference_values import ReferenceValues
        from softtee.digests import DigestCache
        from softtee.measure import default_state, measure
        from softtee.measured_boot import quoted_digest

        try:
            measured = measure(role, cache=DigestCache(default_state(), rehash=rehash))
        except ValueError as error:  # its words for what is missing, or changed while it was read
            raise UserError(f"nothing was measured: {error}", "Run `cloister doctor` on this machine.") from None
        parts = asdict(measured.parts)
        quoted = quoted_digest(measured.value).hex()
        report.data |= {"role": role.value, "measurement": measured.value.hex(), "parts": parts, "tpm": quoted}
        if fragment:
            _say_fragment(report, ReferenceValues("snp", measured.value, (), ""))
            return
        report.say(f"{role.value} {measured.value.hex()}")
        report.rows((name, f"{value[:24]}…") for name, value in parts.items())
        report.say(f"Measured into a software TPM: {quoted}")


@app.command(
    epilog="Example: cloister measure snp --ovmf OVMF.amdsev.fd --kernel vmlinuz --initrd initrd.img "
    "--append 'console=ttyS0 ro' --vcpus 4 --vcpu-type EPYC-v4"
)
def snp(
    ovmf: Annotated[Path, typer.Option(help="The firmware.", show_default=False)],
    vcpus: Annotated[int, typer.Option(help="How many virtual processors.", show_default=False)],
    vcpu_type: Annotated[str, typer.Option(help="Their type, such as EPYC-v4 or EPYC-Genoa.", show_default=False)],
    vmm_type: Annotated[HypervisorOption, typer.Option(help="Who starts the guest.")] = HypervisorOption.QEMU,
    kernel: Annotated[Path | None, typer.Option(help="With kernel-hashes=on.")] = None,
    initrd: Annotated[Path | None, typer.Option(help="With --kernel.")] = None,
    append: Annotated[str, typer.Option(help="The kernel's command line; with --kernel.")] = "",
    fragment: Fragment = False,
    json_output: JsonOption = False,
) -> None:
    """SEV-SNP: the launch digest, by sev-snp-measure (extra `measure`). Each number and type of processors has its own.

    It gives a digest that the virtee project published. It was not compared with a boot of ours. On EC2 and Google the
    firmware alone is measured: the kernel then has to be measured by a TPM.
    """
    with reporting(json_output) as report:
        from console.launch_digest import Hypervisor, SnpGuest, measure_snp

        hypervisor = Hypervisor(vmm_type.value)
        guest = SnpGuest(ovmf, vcpus, vcpu_type, hypervisor, kernel=kernel, initrd=initrd, append=append)
        _tell(report, measure_snp(guest), fragment=fragment)


@app.command(epilog="Example: cloister measure nitro worker.eif")
def nitro(
    file: Annotated[Path, typer.Argument(help="An enclave image, EIF.", show_default=False)],
    fragment: Fragment = False,
    json_output: JsonOption = False,
) -> None:
    """AWS Nitro: PCR 0, 1 and 2 of an EIF, and PCR 8 where it is signed; PCR 3 and 4 belong to the parent instance.

    By the published format. It was not compared with nitro-cli or with a running enclave.
    """
    with reporting(json_output) as report:
        from console.eif import measure_eif
        from console.reference_values import read_image

        _tell(report, measure_eif(read_image(file)), fragment=fragment)


@app.command(epilog="Example: cloister measure uki worker.efi --phase enter-initrd --phase leave-initrd")
def uki(
    file: Annotated[Path, typer.Argument(help="A unified kernel image with systemd-stub.", show_default=False)],
    bank: Annotated[BankOption, typer.Option(help="sha384 for EC2's NitroTPM.")] = BankOption.SHA256,
    phase: Annotated[list[str], typer.Option(help="A boot phase that systemd measures into PCR 11; repeat.")] = [],  # noqa: B006
    fragment: Fragment = False,
    json_output: JsonOption = False,
) -> None:
    """TPM, Azure, Google: PCR 4, 9 and 11 of a UKI. PCR 0 to 3 and 7 depend on the firmware: take those from a machine.

    The rule was equal to one boot of OVMF with systemd-stub 252; this code was not compared with a boot. Other
    firmware, and credentials or extensions beside the image, measure more.
    """
    with reporting(json_output) as report:
        from console.reference_values import read_image
        from console.uki import measure_uki
        from trusted.attestation.formats.tcg_event_log import Bank

        chosen = Bank[bank.value.upper()]
        _tell(report, measure_uki(read_image(file), bank=chosen, phases=phase), fragment=fragment)


@app.command(epilog="Example: cloister measure initdata initdata.toml")
def initdata(
    file: Annotated[Path, typer.Argument(help="Confidential Containers' initdata.toml.", show_default=False)],
    json_output: JsonOption = False,
) -> None:
    """Confidential Containers: the digest of an initdata file, by the algorithm that it names.

    It is what the runtime puts into HOST_DATA (SEV-SNP, sha256) or MRCONFIGID (TDX, sha384). A Cloister enclave wants
    its own value there: see `cloister measure host-data`.
    """
    with reporting(json_output) as report:
        from console.reference_values import initdata_digest

        algorithm, digest = initdata_digest(file)
        report.say(f"{algorithm} {digest.hex()}")
        report.data |= {"algorithm": algorithm, "digest": digest.hex()}


@app.command("host-data", epilog="Example: cloister measure host-data worker charter.dsse.json plan.dsse.json")
def host_data(
    role: Annotated[Role, typer.Argument(help="Which enclave.", show_default=False)],
    charter: Annotated[Path, typer.Argument(help="The charter.", show_default=False)],
    plan: Annotated[Path, typer.Argument(help="The plan.", show_default=False)],
    json_output: JsonOption = False,
) -> None:
    """What a confidential VM is launched with, so that its role, charter and plan cannot change under it.

    SEV-SNP: HOST_DATA. TDX: MRCONFIGID. Arm CCA: the realm's personalization value.
    """
    with reporting(json_output) as report:
        from console.launch_values import launch_values

        values = launch_values(role, charter, plan)
        report.rows(values.items())
        report.data |= {"role": role.value, **values}


def _tell(report: Report, values: ReferenceValues, *, fragment: bool) -> None:
    report.data |= {
        "format": values.format,
        "measurement": values.measurement.hex(),
        "parts": dict(values.parts),
        "verified": values.verified,
    }
    if fragment:
        _say_fragment(report, values)
        return
    report.say(f"{values.format} {values.measurement.hex()}")
    report.rows(values.parts)
    report.say(f"How far this was checked: {values.verified}.")


def _say_fragment(report: Report, values: ReferenceValues) -> None:
    import json

    report.data["fragment"] = values.fragment()
    for line in json.dumps(values.fragment(), indent=2).splitlines():
        report.say(line)
