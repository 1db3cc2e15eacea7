"""The closing note: that a run ended, for an aggregator that is started when most of its witnesses have gone home.

Trust zone: aggregator TEE. Rules: the note is written before anybody is sent home, and opens under the run's recovery
key alone, so an aggregator of this run wrote it. It ends a run and does nothing else: no quorum is asked, because a
host can end a run at any time. (docs/protocol.md §13.4)
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.enclave.ports import BLOB_NAME_BYTES, HostStore
from coordinator.enclave.record import RecoveryKey
from coordinator.enclave.resuming import read_whole
from trusted.errors import ProtocolError
from trusted.ledger.leaves import Outcome
from trusted.wire import Fields, decode_json, encode_json, pack, sha256

_MAX_BYTES = 1024
_MAX_ROUNDS = 1 << 31


@dataclass(frozen=True, slots=True)
class ClosingNote:
    """How a run ended, and how many rounds it has."""

    outcome: Outcome
    rounds: int

    def write(self, store: HostStore, key: RecoveryKey, plan: bytes) -> None:
        """Leave it at the host. The same note again is skipped there: the first bytes of a name stay."""
        sealed = key.seal_note(plan, encode_json({"outcome": self.outcome.value, "rounds": self.rounds}))
        store.write(note_name(plan), len(sealed), [sealed])

    @classmethod
    def read(cls, store: HostStore, key: RecoveryKey, plan: bytes) -> ClosingNote | None:
        """What an aggregator of this run left; None where the host gives nothing that opens."""
        try:
            sealed = read_whole(store, note_name(plan), _MAX_BYTES)
            with Fields(decode_json(key.open_note(plan, sealed), max_bytes=_MAX_BYTES), "closing") as fields:
                outcome = Outcome(fields.choice("outcome", [outcome.value for outcome in Outcome]))
                return cls(outcome, fields.integer("rounds", low=0, high=_MAX_ROUNDS))
        except ProtocolError:
            return None


def note_name(plan: bytes) -> bytes:
    """Under which name the host keeps the note of ``plan``."""
    return sha256(pack("cloister/closing-note-name/v1", plan))[:BLOB_NAME_BYTES]
