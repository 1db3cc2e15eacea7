"""From start options to a runtime that may ask for its key: everything is checked here, before anybody hears of it.

Trust zone: recipient TEE. Order matters, as in a worker: documents and the release first, then the app, then the fork
of the process that runs it, and only then a key: the process that runs the members' app never held one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from recipient.declaration import read_declaration
from recipient.scorer import Scorer, ScorerSpec
from trusted.apps.bundle import MAX_BUNDLE_BYTES, unpack_bundle
from trusted.channel.federation import Federation
from trusted.documents.charter import verify_charter
from trusted.documents.credential import verify_credential
from trusted.documents.plan import verify_plan
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import AttestationError, BlobError, Reason
from trusted.evidence.boot import Boot
from trusted.release import MAX_RELEASE_BYTES, VerifiedRelease, verify_release
from trusted.scoring.messages import rows_at_most
from trusted.scoring.terms import Statement
from trusted.wire import Fields, sha256
from worker.app_log import Reader
from worker.dependencies import require_dependencies

Note = Callable[..., None]
_MAX_TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator of the runtime says. Addresses and paths; nothing here loosens a rule.

    Attributes:
        release: file of the signed release document.
        sealed_model: file of the sealed model that it announces.
        bundle: file of the app bundle.
        credential: DSSE envelope of the member that runs this.
        worker_key: file of the credential's raw Ed25519 key, 32 bytes.
        grantor: the member whose broker is asked for the key.
        broker, broker_ca_pem: where that is: ``name:port``, and the CAs of its certificate, or empty for public ones.
        listen: ``address:port``; ``http://127.0.0.1:port`` in plaintext, on loopback alone.
        certificate, certificate_key: PEM files for TLS; empty in plaintext.
        app_log: file for the app's own words, sealed for that member.
        timeout_s: how long the app may take for one request.
        limits: how much is answered at most.
    """

    release: str
    sealed_model: str
    bundle: str
    credential: str
    worker_key: str
    grantor: str
    broker: str
    broker_ca_pem: str
    listen: str
    certificate: str
    certificate_key: str
    app_log: str
    timeout_s: int
    limits: ScoringLimits

    @classmethod
    def read(cls, boot: Boot) -> Options:
        """The options of a start, or :class:`WireError` naming the one that is missing, unknown or of another type."""
        with Fields(boot.options, "options") as fields:
            limits = ScoringLimits.read(fields.mapping("limits"), "options.limits")
            timeout_s = fields.integer("timeout_s", low=1, high=_MAX_TIMEOUT_S)
            texts = {name: fields.take(name, str) for name in cls.__slots__ if name not in ("limits", "timeout_s")}
            return cls(limits=limits, timeout_s=timeout_s, **texts)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A runtime that may ask for its key: its documents agree, the release holds, its app is the plan's and runs."""

    federation: Federation
    released: VerifiedRelease
    statement: Statement
    scorer: Scorer
    worker_key: Ed25519PrivateKey = field(repr=False)


def prepare(boot: Boot, options: Options, note: Note) -> Prepared:
    """Check everything, start the process that scores, then read the key that the member vouches for.

    Raises:
        ProtocolError: the first thing that does not hold; nothing has been sent to anybody.
    """
    now = datetime.now(UTC)
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    if charter.document.recipient is None:
        raise AttestationError(Reason.POLICY_UNSET, "charter.recipient: the charter admits nobody in this role")
    stored = _read(options.release, MAX_RELEASE_BYTES, "options.release")
    released = verify_release(stored, federation, now)
    member = verify_credential(options.credential.encode(), charter, now).document.member
    note("release-verified", rounds=released.release.rounds, model=released.release.model_sha256.hex())
    work = Path(tempfile.mkdtemp(prefix="recipient-"))
    plan = federation.plan.document
    bundle = _read(options.bundle, MAX_BUNDLE_BYTES, "options.bundle")
    app_dir = unpack_bundle(bundle, expected=plan.app.bundle_sha256, into=work / "app")
    require_dependencies(app_dir)
    declaration = read_declaration(app_dir, plan.dataset.columns)
    statement = Statement(
        release_sha256=sha256(released.release.encode()),
        model_sha256=released.release.model_sha256,
        bundle_sha256=plan.app.bundle_sha256,
        declaration=declaration,
        limits=options.limits,
    )
    for folder in ("scratch", "empty"):
        (work / folder).mkdir(mode=0o700)
    spec = ScorerSpec(
        app_dir=app_dir,
        layout=plan.layout,
        config=dict(plan.app.config),
        declaration=declaration,
        max_rows=rows_at_most(declaration, options.limits),
        log_file=Path(options.app_log),
        scratch=work / "scratch",
        empty=work / "empty",
        log_reader=Reader(member, federation.plan.digest, charter.document.member(member).sealing_key),
    )
    scorer = Scorer.start(spec)
    note("scorer-started", features=[feature.value for feature in scorer.features])
    key = Ed25519PrivateKey.from_private_bytes(Path(options.worker_key).read_bytes())
    return Prepared(federation, released, statement, scorer, key)


def _read(path: str, most: int, name: str) -> bytes:
    """The file ``path``, of at most ``most`` bytes: its writer may have put anything there."""
    with Path(path).open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BlobError(Reason.TOO_LARGE, f"{name}: at most {most} bytes expected")
    return data
