"""Starting an enclave: under the software TEE, or in this very process where the machine is one. Trust zone: operator.

Whoever runs this is the host: it hands over papers and paths, and cannot change what the enclave accepts. Which TEE is
said by the operator; a missing device is an error, never a reason to take the other.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from console.output import UserError
from softtee.enclave import Enclave
from softtee.launcher import Launch, launch
from softtee.surroundings import enclave_uid
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.pcr_rules import PcrRule
from trusted.attestation.policies.tpm import TpmPolicy
from trusted.attestation.policy import AppraisalPolicy
from trusted.documents.charter import VerifiedCharter
from trusted.documents.plan import VerifiedPlan
from trusted.evidence.boot import Boot, Role
from trusted.evidence.collateral_store import CollateralStore, WithCollateral
from trusted.evidence.detection import ENDORSEMENTS, Provisions, detect, read_chain
from trusted.evidence.devices import TpmDevice, WithDevices
from trusted.evidence.nvidia import Endorsements, NvidiaGpus, NvmlCall, load
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.tpm import PcrChoice
from trusted.evidence.tpm import detect as detect_tpm
from trusted.evidence.tpm_transport import DEVICE
from trusted.wire import Json

TPM_CHAIN = "tpm.pem"  # the chain of the key of a TPM beside the TEE


@dataclass(frozen=True, slots=True)
class Papers:
    """The documents that an enclave is started with, verified here so that a mistake shows before the start."""

    charter: VerifiedCharter
    plan: VerifiedPlan


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an enclave of the software TEE gets from its operator.

    Attributes:
        chip: the software chip's folder; the enclave cannot read it.
        log: a file for its output.
        readable, writable: further paths.
        network: whether it may use IP.
        listen_port: the TCP port on which it may listen; None: on none.
    """

    chip: Path
    log: Path
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False
    listen_port: int | None = None


def start_in_software(role: Role, papers: Papers, options: Mapping[str, Json], around: Surroundings) -> Enclave:
    """Measure, confine and start an enclave that has NO HARDWARE PROTECTION, with a TPM where its charter asks for one.

    Raises:
        TeeError, UserError, OSError: it could not be started; nothing runs.
    """
    around.log.parent.mkdir(parents=True, exist_ok=True)
    start = Launch(
        role=role,
        charter=papers.charter.envelope,
        plan=papers.plan.envelope,
        charter_digest=papers.charter.digest,
        plan_digest=papers.plan.digest,
        chip_directory=around.chip,
        log=around.log,
        options=options,
        readable=around.readable,
        writable=around.writable,
        network=around.network,
        listen_port=around.listen_port,
        tpm=tpm_choice(policy_of(role, papers)),
    )
    try:
        return launch(start)
    except ValueError as error:  # the launcher's words for what it cannot measure, load or bind
        raise UserError(f"no enclave was started: {error}", "Run `cloister doctor`; check the chip's folder.") from None


def required_chip(chip: Path | None) -> Path:
    """The chip's folder, which ``--tee software`` needs.

    Raises:
        UserError: none was given, or it is no folder.
    """
    if chip is None or not chip.is_dir():
        raise UserError("--tee software needs --chip", "Make one: cloister tee chip --root ./tee-root --out ./chip-1")
    return chip.resolve()


def hardware_boot(role: Role, papers: Papers, options: Mapping[str, Json]) -> Boot:
    """A start in this process, on a machine that is a TEE as a whole.

    Raises:
        TeeError: TEE_DEVICE_MISSING: it is none.
    """
    policy = policy_of(role, papers)
    source = equipped(detect(provisions=provisions_for(policy)), policy)
    return Boot(role, papers.charter.envelope, papers.plan.envelope, dict(options), source)


def policy_of(role: Role, papers: Papers) -> AppraisalPolicy:
    """What the charter asks of ``role``.

    Raises:
        UserError: it admits nobody in that role.
    """
    policy = papers.charter.document.policies.get(role.value)
    if policy is None:
        hint = f"Its members have to sign a new version that says what a {role.value} must prove."
        raise UserError(f"the charter has no policy for the role {role.value}", hint)
    return policy


def tpm_choice(policy: AppraisalPolicy) -> PcrChoice | None:
    """The PCRs that a TPM beside the TEE is to quote; None where the policy asks for no such TPM."""
    rule = policy.devices.get(EvidenceFormat.TPM)
    if rule is None or not isinstance(rule.policy, TpmPolicy):
        return None
    return PcrChoice(rule.policy.pcrs.bank, rule.policy.pcrs.selection)


def kept_collateral(folder: Path = ENDORSEMENTS) -> str:
    """The folder of the operator's collateral, made where it may be, so that a worker can fill it up; empty if not."""
    kept = folder / "collateral"
    with suppress(OSError):
        kept.mkdir(parents=True, exist_ok=True)
    return str(kept) if kept.is_dir() else ""


def equipped(
    tee: EvidenceProvider,
    policy: AppraisalPolicy,
    *,
    folder: Path = ENDORSEMENTS,
    nvml: Callable[[], NvmlCall] = load,
    tpm: Path = DEVICE,
) -> EvidenceProvider:
    """``tee`` with the operator's collateral, and with the GPUs and the TPM that the policy asks for.

    Args:
        folder: what the operator keeps: ``collateral/`` (made by ``cloister collateral import``), ``nvidia/``, and
            ``tpm.pem``, the chain of the TPM's key where the charter does not name the key itself.
        nvml: opens NVIDIA's library; only where the policy names GPUs.
        tpm: the kernel's device; only where the policy names a TPM.

    Raises:
        TeeError: TEE_DEVICE_MISSING: the policy asks for GPUs or a TPM, and there is no driver for them.
    """
    if (folder / "collateral").is_dir():
        tee = WithCollateral(tee, CollateralStore(folder / "collateral"))
    if EvidenceFormat.NVIDIA_GPU in policy.devices:
        tee = WithDevices(tee, NvidiaGpus(nvml(), lambda: Endorsements.from_folder(folder / "nvidia")))
    choice = tpm_choice(policy)
    if choice is not None:
        chain = read_chain(folder / TPM_CHAIN)
        tee = WithDevices(tee, TpmDevice(detect_tpm(choice, certificates=chain, device=tpm)))
    return tee


def provisions_for(policy: AppraisalPolicy) -> Provisions:
    """What a source of evidence needs to know of the policy that it must meet: which PCRs a TPM is to quote."""
    for platform in policy.platforms.values():
        rule = getattr(platform, "pcrs", None)
        if isinstance(rule, PcrRule):
            return Provisions(pcrs=PcrChoice(rule.bank, rule.selection))
    return Provisions()


class Stage:
    """Files for one enclave, in a folder of its user, gone when the enclave is. Used in a ``with`` block.

    An enclave has a user of its own, which rightly cannot read a member's files; what it must read is copied here.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = Path(tempfile.mkdtemp(prefix="stage-", dir=parent)).resolve()
        self.give(self.folder)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def put(self, name: str, content: bytes) -> Path:
        """A file with ``content`` that only the enclave's user can read."""
        path = self.folder / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
            file.write(content)
        return self.give(path)

    def copy(self, source: Path) -> Path:
        """``source``, a file or a folder of CSV files; itself where the enclave has the operator's own user."""
        if enclave_uid() == os.geteuid():
            return source.resolve()
        target = self.folder / source.name
        if not source.is_dir():
            shutil.copyfile(source, target)
            return self.give(target)
        target.mkdir(mode=0o700)
        for file in sorted(source.glob("*.csv")):
            shutil.copyfile(file, target / file.name)
            self.give(target / file.name)
        return self.give(target)

    def empty_folder(self, path: Path) -> Path:
        """``path``, made, for the enclave to write in; it stays."""
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self.give(path.resolve())

    def give(self, path: Path) -> Path:
        """``path``, now the enclave's user's."""
        with suppress(PermissionError):  # not root: the enclave has the operator's user anyway
            os.chown(path, enclave_uid(), -1)
        return path
