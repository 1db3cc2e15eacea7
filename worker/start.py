"""From start options to a site that is ready to join: everything is checked here, before anybody hears of this worker.

Trust zone: worker TEE. Order matters: documents first, then data and app, then the trainer's fork, and only then keys:
the process that runs the member's app never held one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.channel.federation import Federation
from trusted.channel.worker import Membership
from trusted.documents.charter import verify_charter
from trusted.documents.credential import verify_credential
from trusted.documents.plan import initial_digest, verify_plan
from trusted.documents.site_policy import EffectiveRule, effective, verify_site_policy
from trusted.errors import DocumentError, Reason, RoundError, TeeError, WireError
from trusted.evidence.boot import Boot
from trusted.vault import Vault
from trusted.wire import Fields
from worker.app_log import Reader
from worker.bundle import MAX_BUNDLE_BYTES, unpack_bundle
from worker.contribution import Vector
from worker.dataset import SALT_BYTES, admit_dataset
from worker.dependencies import require_dependencies
from worker.strata import Strata, without_columns
from worker.trainer_process import TrainerProcess, TrainerSpec

Note = Callable[..., None]
MAX_COORDINATORS = 16
MAX_APP_MEMORY_MIB = 1 << 24  # 16 TiB


@dataclass(frozen=True, slots=True)
class Options:
    """What the site's operator says. Addresses and paths; nothing here loosens a rule.

    Attributes:
        coordinators: ``name:port`` of each replica of the host.
        ca_pem: the CAs of the replicas, or empty for the public ones.
        proxy: ``http://…`` of a CONNECT proxy, or empty.
        site_policy, credential: DSSE envelopes of this site's member.
        worker_key: file of the credential's raw Ed25519 key, 32 bytes.
        bundle: file of the app bundle.
        data: the member's CSV file or folder.
        initial_model: file of the flat float32 initial model where this site holds it, or empty.
        app_log: file for the app's own words, sealed for the member.
        collateral_store: folder of `cloister collateral` that the host may fill up with newer, or empty.
        state: folder for what this worker remembers across its restarts, or empty: nothing then.
        control: folder in which the operator says that this worker is to pause or to withdraw, or empty.
        app_memory_mib: how much memory the app may ask for; 0: three quarters of the machine's.
    """

    coordinators: tuple[str, ...]
    ca_pem: str
    proxy: str
    site_policy: str
    credential: str
    worker_key: str
    bundle: str
    data: str
    initial_model: str
    app_log: str
    collateral_store: str
    state: str
    control: str = ""
    app_memory_mib: int = 0

    @classmethod
    def read(cls, boot: Boot) -> Options:
        """The options of a start, or :class:`WireError` naming the one that is missing, unknown or no text."""
        with Fields(boot.options, "options") as fields:
            targets = tuple(str(target) for target in fields.items("coordinators", max_items=MAX_COORDINATORS))
            if not targets:
                raise WireError(Reason.MISSING_FIELD, "options.coordinators: at least one name:port expected")
            named = [name for name in cls.__slots__ if name not in ("coordinators", "control", "app_memory_mib")]
            texts = {name: fields.take(name, str) for name in named}
            control = fields.take("control", str) if fields.has("control") else ""
            given = fields.has("app_memory_mib")
            memory = fields.integer("app_memory_mib", low=0, high=MAX_APP_MEMORY_MIB) if given else 0
            return cls(coordinators=targets, control=control, app_memory_mib=memory, **texts)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A site that may join: its documents agree, its data and app are what the plan says, its trainer runs.

    ``vault`` is where the worker remembers across its restarts; None where it cannot, which its log says.
    """

    federation: Federation
    rule: EffectiveRule
    membership: Membership
    trainer: TrainerProcess
    initial: Vector | None
    vault: Vault | None = None
    strata: Strata | None = None


def prepare(boot: Boot, options: Options, note: Note) -> Prepared:
    """Check everything, start the trainer, then read the keys.

    Raises:
        ProtocolError: the first thing that does not hold; nothing has been sent to anybody.
    """
    now = datetime.now(UTC)
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    policy = verify_site_policy(options.site_policy.encode(), charter, now)
    rule = effective(charter, federation.plan, policy)
    credential = verify_credential(options.credential.encode(), charter, now)
    if credential.document.member != rule.member:
        raise DocumentError(Reason.CREDENTIAL, "credential.member: not the member of the site policy")
    plan = federation.plan.document
    work = Path(tempfile.mkdtemp(prefix="site-"))
    with Path(options.bundle).open("rb") as file:
        bundle = file.read(MAX_BUNDLE_BYTES + 1)
    app_dir = unpack_bundle(bundle, expected=rule.bundle_sha256, into=work / "app")
    require_dependencies(app_dir)
    dataset = admit_dataset(Path(options.data), plan.dataset, into=work / "data", salt=token_bytes(SALT_BYTES))
    note("data-admitted", rows=dataset.rows)
    data, strata = work / "data", None
    if plan.evaluation is not None:
        strata = Strata.read(data, plan.evaluation)
        data = without_columns(data, plan.evaluation.unseen, work / "seen")
    initial = _initial_model(options.initial_model, federation)
    scratch = work / "scratch"
    scratch.mkdir(mode=0o700)
    spec = TrainerSpec(
        app_dir=app_dir,
        data=data,
        layout=plan.layout,
        config=dict(plan.app.config),
        train_config=dict(plan.app.train_config) | plan.aggregation.train_config,
        evaluate_config=dict(plan.app.evaluate_config),
        log_file=Path(options.app_log),
        scratch=scratch,
        private=plan.privacy.dp_sgd,
        log_reader=Reader(rule.member, federation.plan.digest, charter.document.member(rule.member).sealing_key),
        memory_bytes=options.app_memory_mib << 20,
        rows=0 if strata is None else strata.rows,
    )
    trainer = TrainerProcess.start(spec)
    note("trainer-started", features=[feature.value for feature in trainer.features])
    key = Ed25519PrivateKey.from_private_bytes(Path(options.worker_key).read_bytes())
    membership = Membership(options.credential.encode(), key, dataset.digest)
    vault = open_vault(boot, options, federation.plan.digest, note)
    return Prepared(federation, rule, membership, trainer, initial, vault, strata)


def open_vault(boot: Boot, options: Options, plan: bytes, note: Note) -> Vault | None:
    """The vault in the operator's folder; None where there is none by the operator's word or the platform's nature.

    Raises:
        TeeError: the platform has a sealing key and gave none now.
        OSError: the folder is not there.
    """
    if not options.state:
        note("nothing-remembered", detail="options.state: no folder given; a restart of this worker begins anew")
        return None
    try:
        return Vault.open(Path(options.state), boot.provider, boot.role, plan)
    except TeeError as error:
        if error.reason is not Reason.TEE_NO_SEALING:
            raise
        detail = f"{error.detail}; a restart of this worker begins anew"
        note("nothing-remembered", reason=error.reason.code, detail=detail)
        return None


def _initial_model(path: str, federation: Federation) -> Vector | None:
    """The flat float32 model in ``path``, checked against the plan here, so that a wrong file fails at its own site."""
    if not path:
        return None
    plan = federation.plan.document
    if Path(path).stat().st_size != plan.layout.size_bytes:
        raise RoundError(Reason.INITIAL_MODEL, "options.initial_model: not the size of the plan's layout")
    vector = np.fromfile(path, dtype="<f4")
    if initial_digest(plan.layout, vector.data.cast("B")) != plan.initial_sha256:
        raise RoundError(Reason.INITIAL_MODEL, "options.initial_model: not the model whose digest the plan pins")
    return vector
