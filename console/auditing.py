"""A run's log, held against what proves it (docs/protocol.md §12). Trust zone: an auditor's machine. No I/O, no clock.

The host tells of checkpoints and gives segments and certificates; each may be a lie. What is verified here:

1. Every leaf stands under the newest checkpoint that was told; every older one, told or certified, is of the same log.
2. Members' workers cosigned that checkpoint: those whose credential is at hand are checked, the others named.
3. The log is of this plan and charter, and its rounds say what rounds can say.
4. Once the run ended: every cohort is the one that the seed draws, and the seed the one that was committed to.

A host can hold back what is newest. Who knows a later checkpoint, from a worker or an earlier audit, says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from trusted.documents.charter import VerifiedCharter
from trusted.documents.credential import PAYLOAD_TYPE, Credential, VerifiedCredential, verify_credential
from trusted.documents.dsse import open_envelope
from trusted.documents.plan import VerifiedPlan
from trusted.documents.terms import Rule
from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger import leaves
from trusted.ledger.checkpoint import Checkpoint, Diverged, TreeHead, origin_of, witness_key
from trusted.ledger.leaves import Leaf, ServerApp
from trusted.ledger.merkle import Tree
from trusted.ledger.notes import Note
from trusted.ledger.sampling import commitment, drawn
from trusted.ledger.segments import StoredLog, read_log

_ROUNDED = 1e-9  # amounts are written with nine decimal places


@dataclass(frozen=True, slots=True)
class Cosigners:
    """Who cosigned a checkpoint. ``checked``: with a key at hand; ``unchecked``: by a line that nobody could verify."""

    checked: tuple[str, ...]
    unchecked: tuple[str, ...]
    absent: tuple[str, ...]
    needed: int

    @property
    def is_quorum(self) -> bool:
        """Whether a quorum was verified here, and not only told."""
        return len(self.checked) >= self.needed


@dataclass(frozen=True, slots=True)
class AuditedLog:
    """A log that holds. ``cohorts``: how many were drawn again from the seed; None: the run has not ended.

    ``server_app``: what of the members' own code ran in the aggregator beside ours; None: nothing. Then that code chose
    the cohorts, and there is nothing to draw.
    """

    head: TreeHead
    leaves: tuple[Leaf, ...]
    cosigners: Cosigners
    cohorts: int | None
    server_app: ServerApp | None = None


@dataclass(frozen=True, slots=True)
class Auditor:
    """One plan's, with the members' credentials that are at hand."""

    charter: VerifiedCharter
    plan: VerifiedPlan
    credentials: tuple[VerifiedCredential, ...] = ()

    def newest(self, told: Sequence[TreeHead]) -> TreeHead:
        """The newest of the checkpoints that a host ``told``, in its order.

        Raises:
            LedgerError: STATE_MISSING: none was. Diverged: it told a smaller one later, or two of one size.
        """
        if not told:
            raise LedgerError(Reason.STATE_MISSING, "log: the host tells of no checkpoint; has a round been closed?")
        newest = told[0]
        for head in told[1:]:
            if head.size < newest.size:
                raise _diverged(Reason.LEDGER_SHRINKS, "log: a smaller checkpoint was told later", newest, head)
            if head.size == newest.size and head.root != newest.root:
                raise _diverged(Reason.LEDGER_FORK, "log: two checkpoints of one size", newest, head)
            newest = head
        return newest

    def audit(
        self, told: Sequence[TreeHead], known: Sequence[TreeHead], read: Callable[[bytes], bytes], certificate: bytes
    ) -> AuditedLog:
        """The log up to the newest checkpoint that was ``told``; ``known`` are others that somebody vouches for.

        ``read`` gives a segment by its name, empty where there is none; ``certificate`` is that checkpoint's note.

        Raises:
            LedgerError: the first rule that does not hold; Diverged: with both checkpoints.
        """
        head = self.newest(told)
        log = read_log(self.plan.digest, head, read)
        tree = log.tree()
        for older in (*told, *known):
            _require_prefix(tree, head, older)
        self._require_certificates(log, tree, head)
        cosigners = self._cosigners(certificate, head)
        typed = tuple(map(leaves.parse, log.leaves))
        self._require_genesis(typed)
        _require_rounds(typed, self.plan)
        _require_spend(typed, self.plan)
        server_app = _require_server_app(typed, self.plan)
        return AuditedLog(head, typed, cosigners, _cohorts_drawn(typed, self.plan), server_app)

    def _require_certificates(self, log: StoredLog, tree: Tree, head: TreeHead) -> None:
        """What earlier quorums cosigned stands in the segments, and must be of this very log."""
        for data in log.certificates:
            note, certified = self._parsed(data)
            _require_prefix(tree, head, certified)
            self._lines(note)

    def _cosigners(self, certificate: bytes, head: TreeHead) -> Cosigners:
        if not certificate:
            raise LedgerError(Reason.STATE_MISSING, f"log: no certificate for {head}; the host told of it")
        note, certified = self._parsed(certificate)
        if certified != head:
            raise _diverged(Reason.LEDGER_FORK, "log: its certificate is of another checkpoint", certified, head)
        checked, unchecked = self._lines(note)
        members = self.plan.document.cohort.members
        needed = len(members) // 2 + 1
        if len(checked) + len(unchecked) < needed:
            raise LedgerError(Reason.LEDGER_QUORUM, "log: fewer members cosigned it than a quorum")
        absent = set(members) - checked - unchecked
        return Cosigners(tuple(sorted(checked)), tuple(sorted(unchecked)), tuple(sorted(absent)), needed)

    def _parsed(self, data: bytes) -> tuple[Note, TreeHead]:
        """A certificate, and the checkpoint that it is of. No line of it has been verified."""
        try:
            note = Note.parse(data)
            checkpoint = Checkpoint.parse(note.text)
        except ProtocolError:
            raise LedgerError(Reason.LEDGER_SIGNATURE, "log: what should be a certificate is none") from None
        if checkpoint.origin != self._origin:
            raise LedgerError(Reason.LEDGER_SIGNATURE, "log: a certificate of another plan's log")
        return note, checkpoint.head

    def _lines(self, note: Note) -> tuple[set[str], set[str]]:
        """Members whose cosignature was verified, and those whose could not be.

        Raises:
            LedgerError: LEDGER_SIGNATURE: one of a known key does not verify, or was made when its key held not.
        """
        keys = {
            witness_key(self._origin, one.document.member, one.document.worker_key): one.document
            for one in self.credentials
        }
        checked, named = set(), set()
        for line in note.signatures:
            member = line.name.removeprefix(f"{self._origin}/")
            if member == line.name or member not in self.plan.document.cohort.members:
                continue  # the log's own line, whose key the workers alone know, or a stranger's
            named.add(member)
            for key, credential in keys.items():
                if line.is_of(key):
                    key.verify(note.text, line.signature)
                    _require_then_valid(credential, int.from_bytes(line.signature[:8], "big"))
                    checked.add(member)
        return checked, named - checked

    def _require_genesis(self, typed: Sequence[Leaf]) -> None:
        first = typed[0]
        members = self.plan.document.cohort.members
        if not isinstance(first, leaves.Genesis):
            _refuse("log: does not begin as one")
        if (first.plan, first.charter) != (self.plan.digest, self.charter.digest):
            _refuse("genesis: of another plan or charter")
        if (tuple(sorted(first.witnesses)), first.quorum) != (tuple(sorted(members)), len(members) // 2 + 1):
            _refuse("genesis: other witnesses than the plan's members, or another quorum than more than half of them")

    @property
    def _origin(self) -> str:
        return origin_of(self.plan.digest)


def read_credential(envelope: bytes, charter: VerifiedCharter) -> VerifiedCredential:
    """The credential in ``envelope``, as it held while it held: an audit may come years after the run.

    Raises:
        WireError, DocumentError: its member did not sign it under this charter.
    """
    claimed = Credential.parse(open_envelope(envelope, PAYLOAD_TYPE).payload)
    return verify_credential(envelope, charter, claimed.validity.not_before)


def _require_then_valid(credential: Credential, time_s: int) -> None:
    validity = credential.validity
    if not validity.not_before.timestamp() <= time_s <= validity.not_after.timestamp():
        raise LedgerError(Reason.LEDGER_SIGNATURE, "cosignature: made when its credential did not hold")


def _require_prefix(tree: Tree, head: TreeHead, older: TreeHead) -> None:
    if older.size > head.size:
        raise _diverged(Reason.LEDGER_SHRINKS, "log: shorter than one that is known", older, head)
    if tree.root(older.size) != older.root:
        raise _diverged(Reason.LEDGER_FORK, "log: does not extend one that is known", older, head)


def _require_rounds(typed: Sequence[Leaf], plan: VerifiedPlan) -> None:
    """Each cohort is as large as it can be and of those present; nobody else counts."""
    members, size = frozenset(plan.document.cohort.members), plan.document.cohort.size
    is_drawn = plan.document.aggregation.rule is not Rule.SERVER_APP
    cohorts: dict[int, frozenset[str]] = {}
    for leaf in typed:
        if isinstance(leaf, leaves.Opened):
            cohort = cohorts[leaf.round] = frozenset(leaf.cohort)
            is_full = len(cohort) == min(size, len(leaf.present)) or not is_drawn
            if not cohort <= set(leaf.present) <= members or not is_full:
                _refuse(f"opened: round {leaf.round} has a cohort that the plan does not allow")
        elif isinstance(leaf, leaves.Closed) and not set(leaf.counted) <= cohorts.get(leaf.round, frozenset()):
            _refuse(f"closed: round {leaf.round} counts somebody who is not in its cohort")


def _require_spend(typed: Sequence[Leaf], plan: VerifiedPlan) -> None:
    """Under a privacy mechanism every closed round was paid for, the spend never fell, and the budget held."""
    budget, spent, unpaid = plan.document.privacy.budget, 0.0, False
    for leaf in typed:
        if isinstance(leaf, leaves.Closed):
            unpaid = budget is not None
        elif isinstance(leaf, leaves.Spent):
            epsilon = float(dict(leaf.cumulative).get("epsilon", "0"))
            if budget is None or not spent <= epsilon <= budget.epsilon + _ROUNDED:
                _refuse("spent: less than before, or more than the plan's budget")
            spent, unpaid = epsilon, False
        elif unpaid and isinstance(leaf, leaves.State | leaves.Committed):
            _refuse("closed: a round that was not paid for from the privacy budget")


def _require_server_app(typed: Sequence[Leaf], plan: VerifiedPlan) -> leaves.ServerApp | None:
    """Before anything is asked of a site the log says by which app's server; where the plan has none, of none."""
    said = [leaf for leaf in typed if isinstance(leaf, (leaves.ServerApp, leaves.Opened))]
    servers = [leaf for leaf in said if isinstance(leaf, leaves.ServerApp)]
    if plan.document.aggregation.rule is not Rule.SERVER_APP:
        if servers:
            _refuse("server-app: code of an app ran in the aggregator, and the plan does not say so")
        return None
    if said and not isinstance(said[0], leaves.ServerApp):
        _refuse("server-app: sites were asked before the log says by whom")
    if any(leaf.bundle_sha256 != plan.document.app.bundle_sha256 for leaf in servers):
        _refuse("server-app: of another bundle than the plan's")
    return servers[0] if servers else None


def _cohorts_drawn(typed: Sequence[Leaf], plan: VerifiedPlan) -> int | None:
    """How many cohorts the seed draws just so; None while it is secret."""
    ended = next((leaf for leaf in reversed(typed) if isinstance(leaf, leaves.Ended)), None)
    if ended is None:
        return None
    first = typed[0]
    if isinstance(first, leaves.Genesis) and commitment(ended.seed) != first.seed_commitment:
        _refuse("ended: not the seed that the first leaf commits to")
    if plan.document.aggregation.rule is Rule.SERVER_APP:
        return 0
    opened = [leaf for leaf in typed if isinstance(leaf, leaves.Opened)]
    for leaf in opened:
        if drawn(ended.seed, leaf.round, leaf.present, plan.document.cohort.size) != leaf.cohort:
            _refuse(f"opened: the cohort of round {leaf.round} is not the one that the seed draws")
    return len(opened)


def described(typed: Sequence[Leaf]) -> Iterator[tuple[str, str]]:
    """What each leaf says, in one line: its kind, and round, member and the rest."""
    for leaf in typed:
        fields = dict(leaf.to_json())
        words = [f"round {fields.pop('round')}"] if "round" in fields else []
        words += [str(fields.pop("member"))] if fields.get("member") else []
        yield leaf.KIND, ", ".join(words + [f"{name} {_short(value)}" for name, value in fields.items()])


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_short(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    text = "none" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:16]}…"


def _diverged(reason: Reason, detail: str, held: TreeHead, offered: TreeHead) -> Diverged:
    return Diverged(reason, detail, held=held, offered=offered)


def _refuse(detail: str) -> NoReturn:
    raise LedgerError(Reason.LEDGER_LEAF, detail)
