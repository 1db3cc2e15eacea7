"""What three members agree on and sign, through the functions that the commands use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from safetensors.numpy import save_file

from console import charters, keyfiles, members, plans, sites
from console.documents import load_charter, load_plan, present
from console.enclaves import Papers
from console.files import write_file
from console.joining import SITE_POLICY
from softtee.chip import SoftwareRoot
from softtee.digests import DigestCache
from softtee.measure import default_state, measure
from tests.canary.needles import Pattern, secret_needle
from tests.canary.sites import COLUMNS, LISTED_METRIC, NAMES, RECIPIENT, ROWS, initial_model, write_app
from trusted.attestation.policies.snp import development_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.documents import charter as charter_document
from trusted.documents import plan as plan_document
from trusted.documents import site_policy as site_policy_document
from trusted.documents.charter import Profile
from trusted.documents.dsse import Signer, new_envelope, sign
from trusted.evidence.boot import Role

ROUNDS = 3
NO_PRIVACY = {"mechanism": "none", "reason": "nothing here is anybody's"}
AGGREGATOR = "aggregator"
MACHINES = (AGGREGATOR, *NAMES)


@dataclass(frozen=True, slots=True)
class Folder:
    """Where everything lies. ``host`` is the host's; the rest is the members'."""

    path: Path

    @property
    def charter(self) -> Path:
        return self.path / "charter.dsse.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.dsse.json"

    @property
    def bundle(self) -> Path:
        return self.path / "app.fab"

    @property
    def initial_model(self) -> Path:
        return self.path / "initial.safetensors"

    def member(self, name: str) -> Path:
        """A member's own folder: keys, credential, site policy."""
        return self.path / name

    def chip(self, machine: str) -> Path:
        """A machine's software chip."""
        return self.path / "chips" / machine

    @property
    def host_state(self) -> Path:
        """The host's own folder: all that it ever stores."""
        return self.path / "host"

    @property
    def logs(self) -> Path:
        """The enclaves' logs, each at its own machine in real life."""
        return self.path / "logs"

    def signer(self, name: str) -> Signer:
        """A member's signing key."""
        return keyfiles.load_signer(self.member(name) / keyfiles.SIGNING_KEY, None)


def agree(folder: Folder, root: SoftwareRoot) -> Papers:
    """Keys, charter, plan, credentials and site policies; the two documents as every enclave will verify them."""
    for machine in MACHINES:
        root.issue_chip(now=present()).save(folder.chip(machine))
    for name in NAMES:
        members.make_member(folder.member(name), members.Naming(name, name), None, force=False)
    _write_charter(folder, root)
    _write_plan(folder)
    charter = load_charter(folder.charter)
    papers = Papers(charter, load_plan(folder.plan, charter))
    for name in NAMES:
        signer = folder.signer(name)
        members.make_credential(folder.member(name), charter, signer, valid_days=1, force=False)
        policy = sites.make_site_policy(charter, name, [papers.plan], sites.Bounds(None, (), 1))
        _sign(folder.member(name) / SITE_POLICY, policy.encode(), site_policy_document.PAYLOAD_TYPE, [signer])
    return papers


def _write_charter(folder: Folder, root: SoftwareRoot) -> None:
    cache = DigestCache(default_state())
    aggregator, worker = (
        AppraisalPolicy.of(snp=development_snp_policy([measure(role, cache=cache).value]))
        for role in (Role.AGGREGATOR, Role.WORKER)
    )
    people = charters.read_members([folder.member(name) / keyfiles.MEMBER_FILE for name in NAMES])
    identity = charters.Identity("Canaries", Profile.DEVELOPMENT, people, valid_days=1, previous=None)
    proofs = charters.Proofs((root.trust_root,), aggregator, worker)
    document = charters.make_charter(identity, proofs, charters.default_thresholds(None, None, len(people)))
    _sign(folder.charter, document.encode(), charter_document.PAYLOAD_TYPE, map(folder.signer, NAMES))


def _write_plan(folder: Folder) -> None:
    save_file({"w": initial_model()}, folder.initial_model)
    bundle = plans.read_bundle(write_app(folder.path / "app"))
    write_file(folder.bundle, bundle)
    training = plans.Training(bundle, [], folder.initial_model, None)
    cohort = plans.Sites((), 3, None, ROWS, COLUMNS, (f"{LISTED_METRIC}:3:3",), (RECIPIENT,))
    timing = plans.Timing(round_s=120, lease_s=60, reattest_s=20, valid_days=1)
    terms = plans.Terms("canaries", "Nothing may sing", ROUNDS, 1e9, NO_PRIVACY, timing)
    document = plans.make_plan(load_charter(folder.charter), training, cohort, terms)
    _sign(folder.plan, document.encode(), plan_document.PAYLOAD_TYPE, map(folder.signer, NAMES))


def _sign(path: Path, payload: bytes, payload_type: str, signers: Iterable[Signer]) -> None:
    envelope = new_envelope(payload, payload_type)
    for signer in signers:
        envelope = sign(envelope, signer)
    write_file(path, envelope.encode())


def key_needles(folder: Folder) -> Iterator[Pattern]:
    """Every private key that a member or its worker was given, and those of the software chips."""
    for name in NAMES:
        for file in (keyfiles.SIGNING_KEY, keyfiles.WORKER_KEY):
            yield from _key_file(f"{name}: {file}", folder.member(name) / file)
        path = folder.member(name) / keyfiles.SEALING_KEY
        sealing = keyfiles.load_sealing_key(path, None).to_bytes()
        yield from secret_needle(f"{name}: ML-KEM seed", sealing[:64], path.read_text())
        yield from secret_needle(f"{name}: X25519 key", sealing[64:])
    for machine in MACHINES:
        yield from _key_file(f"{machine}: chip", folder.chip(machine) / "vcek.key")


def _key_file(needle: str, path: Path) -> Iterator[Pattern]:
    pem = path.read_text()
    match load_pem_private_key(pem.encode(), None):
        case Ed25519PrivateKey() as key:
            yield from secret_needle(needle, key.private_bytes_raw(), pem)
        case EllipticCurvePrivateKey() as key:
            yield from secret_needle(needle, key.private_numbers().private_value.to_bytes(48, "big"), pem)
        case other:
            raise TypeError(f"{path.name}: {type(other).__name__}")
