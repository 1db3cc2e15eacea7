"""What the members agree on: keys, a software root, charter, plans, site policies, all signed. Trust zone: public data.

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
from console.demo.cast import Cast, Folder, Scene, Wishes
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
from trusted.documents.charter import Profile, VerifiedCharter
from trusted.documents.dsse import Signer, new_envelope, sign
from trusted.evidence.boot import Role

AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class Machines:
    """The software root of all chips, and the keys of their TPMs by machine; no key where there are no TPMs."""

    root: SoftwareRoot
    tpm_keys: Mapping[str, bytes]


def agree(folder: Folder, cast: Cast, wishes: Wishes) -> VerifiedCharter:
    """Draw all keys, make the chips and the initial model; make and sign the charter."""
    with ThreadPoolExecutor(max_workers=3) as pool:
        initial = pool.submit(_initial_model, folder, cast, wishes.seed)
        machines = pool.submit(_root_and_chips, folder, cast, wishes)
        measurements = pool.submit(_measurements)
        for name, title in cast.members.items():
            members.make_member(folder.site(name), members.Naming(name, title), None, force=False)
        _write_charter(folder, cast, machines.result(), measurements.result())
        initial.result()
    return load_charter(folder.charter)


def plan_run(folder: Folder, cast: Cast, scene: Scene, wishes: Wishes) -> Papers:
    """Make and sign the plan of one run; what comes back is verified as every enclave will verify it."""
    charter = load_charter(folder.charter)
    bundle = plans.read_bundle(cast.app)
    write_file(folder.bundle, bundle)
    training = plans.Training(bundle, [f"seed={wishes.seed}"], folder.initial_model, None)
    cohort = plans.Sites(
        (), scene.minimum, None, cast.min_rows, cast.columns, (cast.metric,), (cast.recipient,),
        evaluation=cast.judged.to_json(),
    )  # fmt: skip
    timing = plans.Timing(round_s=120, lease_s=60, reattest_s=20, valid_days=7)
    privacy = {"mechanism": "none", "reason": cast.no_privacy_reason}
    terms = plans.Terms(scene.plan, cast.purpose, wishes.rounds, 1_000_000, privacy, timing, scene.folding)
    document = plans.make_plan(charter, training, cohort, terms)
    _write_signed(folder.plan, document.encode(), plan_document.PAYLOAD_TYPE, _signers(folder, cast.members))
    return Papers(charter, load_plan(folder.plan, charter))


def allow(folder: Folder, cast: Cast, papers: Sequence[Papers]) -> None:
    """Let each member allow these plans at its own site, and vouch for its worker's key."""
    charter = papers[0].charter
    for name in cast.members:
        signer, site = _signer(folder, name), folder.site(name)
        members.make_credential(site, charter, signer, valid_days=7, force=False)
        policy = sites.make_site_policy(charter, name, [each.plan for each in papers], sites.Bounds(None, (), 7))
        _write_signed(site / SITE_POLICY, policy.encode(), site_policy_document.PAYLOAD_TYPE, [signer])


def _initial_model(folder: Folder, cast: Cast, seed: int) -> None:
    """The app's own script writes it, in a process of its own: importing torch takes a second."""
    code = f"import sys; sys.path.insert(0, sys.argv.pop(1)); from {cast.app.name}.initial import main; main()"
    command = [sys.executable, "-P", "-c", code, str(cast.app), "--seed", str(seed), "--out", str(folder.initial_model)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _root_and_chips(folder: Folder, cast: Cast, wishes: Wishes) -> Machines:
    now = present()
    root = SoftwareRoot.create(now=now)
    root.save(folder.path / "tee-root")
    names = (AGGREGATOR, *cast.members)
    for name in names:
        root.issue_chip(now=now).save(folder.chip(name))
    keys = {name: ChipTpm.make(folder.chip(name), root, now=now).key_sha256 for name in names if wishes.tpms}
    return Machines(root, keys)


def _measurements() -> tuple[bytes, bytes]:
    cache = DigestCache(default_state())
    return measure(Role.AGGREGATOR, cache=cache).value, measure(Role.WORKER, cache=cache).value


def _write_charter(folder: Folder, cast: Cast, machines: Machines, measurements: tuple[bytes, bytes]) -> None:
    aggregator = _policy(measurements[0], machines, (AGGREGATOR,))
    worker = _policy(measurements[1], machines, tuple(cast.members))
    roots = [machines.root.trust_root, *([tpm_root(machines.root.sha256)] if machines.tpm_keys else [])]
    people = charters.read_members([folder.site(name) / keyfiles.MEMBER_FILE for name in cast.members])
    identity = charters.Identity(cast.charter, Profile.DEVELOPMENT, people, valid_days=30, previous=None)
    proofs = charters.Proofs(tuple(roots), aggregator, worker)
    thresholds = charters.default_thresholds(None, None, len(people))
    document = charters.make_charter(identity, proofs, thresholds)
    _write_signed(folder.charter, document.encode(), charter_document.PAYLOAD_TYPE, _signers(folder, cast.members))


def _policy(measurement: bytes, machines: Machines, names: Sequence[str]) -> AppraisalPolicy:
    """What the machines ``names`` must prove: their chip's report, and where they have TPMs a quote of one of these."""
    tee = {EvidenceFormat.SNP: development_snp_policy([measurement])}
    if not machines.tpm_keys:
        return AppraisalPolicy(tee)
    rule = software_tpm_rule([measurement], [machines.tpm_keys[name] for name in names])
    return AppraisalPolicy(tee, {EvidenceFormat.TPM: rule})


def _signers(folder: Folder, names: Iterable[str]) -> list[Signer]:
    return [_signer(folder, name) for name in names]


def _signer(folder: Folder, name: str) -> Signer:
    return keyfiles.load_signer(folder.site(name) / keyfiles.SIGNING_KEY, None)


def _write_signed(path: Path, payload: bytes, payload_type: str, signers: Iterable[Signer]) -> None:
    envelope = new_envelope(payload, payload_type)
    for signer in signers:
        envelope = sign(envelope, signer)
    write_file(path, envelope.encode())
