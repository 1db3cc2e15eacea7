"""What six sites agree on: keys, a software root, charter, plan, site policies, all signed. Trust zone: public data.

Every document goes through the functions that the commands use: nothing is skipped because this is a demonstration.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from console import charters, keyfiles, members, plans, sites
from console.documents import load_charter, load_plan, present
from console.enclaves import Papers
from console.files import write_file
from console.joining import SITE_POLICY
from console.software_tpm import software_tpm_rule
from softtee.chip import SoftwareRoot
from softtee.chip_tpm import ChipTpm, tpm_root
from softtee.digests import DigestCache
from softtee.measure import default_state, measure
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.documents import charter as charter_document
from trusted.documents import plan as plan_document
from trusted.documents import site_policy as site_policy_document
from trusted.documents.charter import Profile
from trusted.documents.dsse import Signer, new_envelope, sign
from trusted.evidence.boot import Role

REPOSITORY = Path(__file__).resolve().parents[2]
APP = REPOSITORY / "examples" / "rand_hie"
DATA = REPOSITORY / "data" / "rand_hie"
SITES = tuple(f"site-{number}" for number in range(1, 7))
RECIPIENT = SITES[0]
AGGREGATOR = "aggregator"
# What the app reads, and no more: `black` and the outcomes that it does not predict stay out of the enclave.
COLUMNS = (
    *("zper", "xage", "female", "educdec", "income", "num", "child", "mhi", "disea", "physlm", "xghindx"),
    *("hlthg", "hlthf", "hlthp", "coins", "idp", "lpi", "fmde", "tookphys", "mdvis"),
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person asked for, and whether each machine has a software TPM as well."""

    rounds: int
    seed: int
    tpms: bool


@dataclass(frozen=True, slots=True)
class Machines:
    """The software root of all chips, and the keys of their TPMs by machine; no key where there are no TPMs."""

    root: SoftwareRoot
    tpm_keys: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything of one demonstration lies."""

    path: Path

    @property
    def charter(self) -> Path:
        """The signed charter."""
        return self.path / "charter.dsse.json"

    @property
    def plan(self) -> Path:
        """The signed plan; its bundle is next to it."""
        return self.path / "plan.dsse.json"

    @property
    def bundle(self) -> Path:
        """The app bundle that the plan pins."""
        return self.path / "plan.fab"

    @property
    def initial_model(self) -> Path:
        """The initial model, safetensors."""
        return self.path / "initial.safetensors"

    def site(self, name: str) -> Path:
        """One member's own folder."""
        return self.path / name

    def chip(self, name: str) -> Path:
        """One machine's software chip."""
        return self.path / "chips" / name


def agree(folder: Folder, wishes: Wishes) -> Papers:
    """Make and sign everything; what comes back is verified as every enclave will verify it."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        initial = pool.submit(_initial_model, folder, wishes.seed)
        machines = pool.submit(_root_and_chips, folder, wishes)
        measurements = pool.submit(_measurements)
        for name in SITES:
            members.make_member(folder.site(name), members.Naming(name, f"Site {name[-1]}"), None, force=False)
        _write_charter(folder, machines.result(), measurements.result())
        initial.result()
    _write_plan(folder, wishes)
    papers = Papers(load_charter(folder.charter), load_plan(folder.plan, load_charter(folder.charter)))
    for name in SITES:
        _write_site_papers(folder, papers, name)
    return papers


def _initial_model(folder: Folder, seed: int) -> None:
    """The app's own script writes it, in a process of its own: importing torch takes a second."""
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rand_hie.initial import main; main()"
    command = [sys.executable, "-P", "-c", code, str(APP), "--seed", str(seed), "--out", str(folder.initial_model)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _root_and_chips(folder: Folder, wishes: Wishes) -> Machines:
    now = present()
    root = SoftwareRoot.create(now=now)
    root.save(folder.path / "tee-root")
    names = (AGGREGATOR, *SITES)
    for name in names:
        root.issue_chip(now=now).save(folder.chip(name))
    keys = {name: ChipTpm.make(folder.chip(name), root, now=now).key_sha256 for name in names if wishes.tpms}
    return Machines(root, keys)


def _measurements() -> tuple[bytes, bytes]:
    cache = DigestCache(default_state())
    return measure(Role.AGGREGATOR, cache=cache).value, measure(Role.WORKER, cache=cache).value


def _write_charter(folder: Folder, machines: Machines, measurements: tuple[bytes, bytes]) -> None:
    aggregator = _policy(measurements[0], machines, (AGGREGATOR,))
    worker = _policy(measurements[1], machines, SITES)
    roots = [machines.root.trust_root, *([tpm_root(machines.root.sha256)] if machines.tpm_keys else [])]
    people = charters.read_members([folder.site(name) / keyfiles.MEMBER_FILE for name in SITES])
    identity = charters.Identity("RAND HIE demonstration", Profile.DEVELOPMENT, people, valid_days=30, previous=None)
    proofs = charters.Proofs(tuple(roots), aggregator, worker)
    thresholds = charters.default_thresholds(None, None, len(people))
    document = charters.make_charter(identity, proofs, thresholds)
    _write_signed(folder.charter, document.encode(), charter_document.PAYLOAD_TYPE, _signers(folder, SITES))


def _policy(measurement: bytes, machines: Machines, names: Sequence[str]) -> AppraisalPolicy:
    """What the machines ``names`` must prove: their chip's report, and where they have TPMs a quote of one of these."""
    tee = {EvidenceFormat.SNP: development_snp_policy([measurement])}
    if not machines.tpm_keys:
        return AppraisalPolicy(tee)
    rule = software_tpm_rule([measurement], [machines.tpm_keys[name] for name in names])
    return AppraisalPolicy(tee, {EvidenceFormat.TPM: rule})


def _write_plan(folder: Folder, wishes: Wishes) -> None:
    bundle = plans.read_bundle(APP)
    write_file(folder.bundle, bundle)
    training = plans.Training(bundle, [f"seed={wishes.seed}"], folder.initial_model, None)
    cohort = plans.Sites((), 4, None, 100, COLUMNS, ("auc:3:3",), (RECIPIENT,))
    timing = plans.Timing(round_s=120, lease_s=60, reattest_s=20, valid_days=7)
    purpose = "Who will see a doctor five times or more in the first year?"
    reason = "a demonstration on public data"
    privacy = {"mechanism": "none", "reason": reason}
    terms = plans.Terms("rand-hie-visits", purpose, wishes.rounds, 1_000_000, privacy, timing)
    document = plans.make_plan(load_charter(folder.charter), training, cohort, terms)
    _write_signed(folder.plan, document.encode(), plan_document.PAYLOAD_TYPE, _signers(folder, SITES))


def _write_site_papers(folder: Folder, papers: Papers, name: str) -> None:
    signer = _signer(folder, name)
    site = folder.site(name)
    members.make_credential(site, papers.charter, signer, valid_days=7, force=False)
    policy = sites.make_site_policy(papers.charter, name, [papers.plan], sites.Bounds(None, (), 7))
    _write_signed(site / SITE_POLICY, policy.encode(), site_policy_document.PAYLOAD_TYPE, [signer])


def _signers(folder: Folder, names: Iterable[str]) -> list[Signer]:
    return [_signer(folder, name) for name in names]


def _signer(folder: Folder, name: str) -> Signer:
    return keyfiles.load_signer(folder.site(name) / keyfiles.SIGNING_KEY, None)


def _write_signed(path: Path, payload: bytes, payload_type: str, signers: Iterable[Signer]) -> None:
    envelope = new_envelope(payload, payload_type)
    for signer in signers:
        envelope = sign(envelope, signer)
    write_file(path, envelope.encode())
