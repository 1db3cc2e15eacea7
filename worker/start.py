"""From start options to a site that is ready to join: everything is checked here, before anybody hears of this worker.

Trust zone: worker TEE. Order matters: documents and app first, then the trainer's fork, and only then keys, and with
them the data: the process that runs the member's app never held one. It loads the app once the data has been checked.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_bytes

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.apps.bundle import MAX_BUNDLE_BYTES, unpack_bundle
from trusted.channel.federation import Federation
from trusted.channel.worker import Membership
from trusted.documents.charter import verify_charter
from trusted.documents.credential import verify_credential
from trusted.documents.grant import Holder
from trusted.documents.plan import initial_digest, verify_plan
from trusted.documents.site_policy import EffectiveRule, effective, verify_site_policy
from trusted.documents.terms import DatasetContract
from trusted.errors import AppError, DocumentError, Reason, RoundError, StateError, TeeError, WireError
from trusted.evidence.boot import Boot
from trusted.keys.requester import Asker, KeyRequester
from trusted.row_commitment import SECRET_BYTES, secret_of
from trusted.sealed_data import DataHeader
from trusted.vault import Vault
from trusted.wire import Fields
from worker.app_log import Reader
from worker.contract import Gate
from worker.contribution import Vector
from worker.dataset import DatasetCommitment, Source, admit_dataset, sealed_header
from worker.dependencies import require_dependencies
from worker.key_client import BrokerAddress, fetch_key
from worker.private_folder import PrivateFolder
from worker.strata import Strata, without_columns
from worker.trainer_process import TrainerProcess, TrainerSpec

Note = Callable[..., None]
MAX_COORDINATORS = 16
MAX_APP_MEMORY_MIB = 1 << 24  # 16 TiB
_KEPT_AS = "dataset-secret"
_OPTIONAL = ("control", "key_broker", "key_broker_ca")


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
        data: the member's CSV file or folder, or what `cloister data seal` made of them.
        initial_model: file of the flat float32 initial model where this site holds it, or empty.
        app_log: file for the app's own words, sealed for the member.
        collateral_store: folder of `cloister collateral` that the host may fill up with newer, or empty.
        state: folder for what this worker remembers across its restarts, or empty: nothing then.
        control: folder in which the operator says that this worker is to pause or to withdraw, or empty.
        key_broker: ``name:port`` of the member's key broker, where ``data`` is sealed; or empty.
        key_broker_ca: the CA of its certificate, PEM, or empty for the public ones.
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
    key_broker: str = ""
    key_broker_ca: str = ""
    app_memory_mib: int = 0

    @classmethod
    def read(cls, boot: Boot) -> Options:
        """The options of a start, or :class:`WireError` naming the one that is missing, unknown or no text."""
        with Fields(boot.options, "options") as fields:
            targets = tuple(str(target) for target in fields.items("coordinators", max_items=MAX_COORDINATORS))
            if not targets:
                raise WireError(Reason.MISSING_FIELD, "options.coordinators: at least one name:port expected")
            named = [name for name in cls.__slots__ if name not in ("coordinators", "app_memory_mib", *_OPTIONAL)]
            named += [name for name in _OPTIONAL if fields.has(name)]
            given = fields.has("app_memory_mib")
            memory = fields.integer("app_memory_mib", low=0, high=MAX_APP_MEMORY_MIB) if given else 0
            texts = {name: fields.take(name, str) for name in named}
            return cls(coordinators=targets, app_memory_mib=memory, **texts)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A site that may join: its documents agree, its data and app are what the plan says, its trainer runs.

    ``vault`` is where the worker remembers across its restarts; None where it cannot, which its log says. ``folder``
    holds the data in clear, ``work`` the app and what it wrote; both are removed when the worker ends.
    """

    federation: Federation
    rule: EffectiveRule
    membership: Membership
    trainer: TrainerProcess
    initial: Vector | None
    vault: Vault | None = None
    strata: Strata | None = None
    folder: PrivateFolder | None = None
    work: Path | None = None

    def close(self) -> None:
        """End the app and remove the data in clear, with all that the app wrote. May be called twice."""
        self.trainer.stop()
        if self.folder is not None:
            self.folder.close()
        if self.work is not None:
            shutil.rmtree(self.work, ignore_errors=True)


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
    plan, data = federation.plan.document, Path(options.data)
    header = _sealed_for(data, rule, options)
    work = Path(tempfile.mkdtemp(prefix="site-"))
    with Path(options.bundle).open("rb") as file:
        bundle = file.read(MAX_BUNDLE_BYTES + 1)
    app_dir = unpack_bundle(bundle, expected=rule.bundle_sha256, into=work / "app")
    require_dependencies(app_dir)
    initial = _initial_model(options.initial_model, federation)
    scratch = work / "scratch"
    scratch.mkdir(mode=0o700)
    folder = PrivateFolder.make(_size_bytes(data))
    admitted = _made(folder.path / "admitted")
    unseen = () if plan.evaluation is None else plan.evaluation.unseen
    seen = _made(folder.path / "seen") if unseen else admitted
    spec = TrainerSpec(
        app_dir=app_dir,
        data=seen,
        layout=plan.layout,
        config=dict(plan.app.config),
        train_config=dict(plan.app.train_config) | plan.aggregation.train_config,
        evaluate_config=dict(plan.app.evaluate_config),
        changes=plan.app.changes,
        log_file=Path(options.app_log),
        scratch=scratch,
        private=plan.privacy.dp_sgd,
        log_reader=Reader(rule.member, federation.plan.digest, charter.document.member(rule.member).sealing_key),
        memory_bytes=options.app_memory_mib << 20,
        message_bytes=plan.aggregation.message_bytes,
    )
    trainer = TrainerProcess.fork(spec)
    try:  # from here on there are keys, which the trainer's process has not
        key = Ed25519PrivateKey.from_private_bytes(Path(options.worker_key).read_bytes())
        vault = open_vault(boot, options, federation.plan.digest, note)
        data_key = None if header is None else _data_key(boot, options, federation, header, key)
        secret = _secret(data_key, federation.plan.digest, vault, note)
        dataset = admit_dataset(Source(data, data_key), Gate(plan.dataset, now), into=admitted, secret=secret)
        _note_admitted(dataset, plan.dataset, folder, note)
        strata = None if plan.evaluation is None else Strata.read(admitted, plan.evaluation)
        without_columns(admitted, unseen, seen)
        trainer.load(rows=0 if strata is None else strata.rows)
    except BaseException:
        trainer.stop()
        folder.close()
        shutil.rmtree(work, ignore_errors=True)
        raise
    note("trainer-started", features=[feature.value for feature in trainer.features])
    membership = Membership(options.credential.encode(), key, dataset.digest)
    return Prepared(federation, rule, membership, trainer, initial, vault, strata, folder, work)


def _sealed_for(data: Path, rule: EffectiveRule, options: Options) -> DataHeader | None:
    """The header of a sealed file that this worker may open; None where the data is not sealed."""
    header = sealed_header(data)
    if header is None:
        return None
    header.require_member(rule.member)
    if not options.key_broker:
        raise AppError(Reason.DATA_KEY, "options.key_broker: the data is sealed, and no key broker is named")
    return header


def _data_key(
    boot: Boot, options: Options, federation: Federation, header: DataHeader, key: Ed25519PrivateKey
) -> bytes:
    """The key of a sealed data set, from the member's broker, which lets this worker prove itself first."""
    asker = Asker(Holder.WORKER, boot.provider, options.credential.encode(), key)
    address = BrokerAddress(options.key_broker, options.key_broker_ca.encode() or None, options.proxy or None)
    granted = fetch_key(address, lambda: KeyRequester(federation, asker, key_id=header.key_id, member=header.member))
    return granted.key.secret


def _note_admitted(dataset: DatasetCommitment, contract: DatasetContract, folder: PrivateFolder, note: Note) -> None:
    # Where rows expire, a host that moves its clock could read from their number when they do.
    told = {} if contract.expires else {"rows": dataset.rows}
    note("data-admitted", commitment=dataset.digest.hex(), in_memory=folder.in_memory, **told)


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def _secret(data_key: bytes | None, plan: bytes, vault: Vault | None, note: Note) -> bytes:
    """What hides the rows in their commitment: of a sealed file its own, else one that outlives restarts if it can."""
    if data_key is not None:
        return secret_of(data_key, plan)
    if vault is None:
        return token_bytes(SECRET_BYTES)
    try:
        kept = vault.read(_KEPT_AS)
    except StateError as error:
        note("memory-not-opened", reason=error.reason.code, detail=f"{error.detail}; the data is committed to anew")
        kept = None
    if kept is not None and len(kept) == SECRET_BYTES:
        return kept
    fresh = token_bytes(SECRET_BYTES)
    vault.write(_KEPT_AS, fresh)
    return fresh


def _size_bytes(data: Path) -> int:
    files = data.glob("*.csv") if data.is_dir() else (data,)
    return sum(file.stat().st_size for file in files if file.is_file())


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
