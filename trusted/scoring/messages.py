"""Requests and answers inside a session's records: numbers, and zeros up to a size that tells little.

Trust zone: recipient TEE, and the client's machine. Who carries the records sees only which of eight sizes a request
has; its answer has the same, good or refused, unless the scores of its rows need more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import ChannelError, Reason, WireError
from trusted.scoring.terms import Declaration
from trusted.wire import exactly, pack, sha256, unpack

BUCKETS = tuple(4096 << step for step in range(8))  # 4 KiB to 512 KiB; a record of the channel holds 1 MiB
_REQUEST, _ANSWER = "cloister/scoring-request/v1", "cloister/scoring-answer/v1"
_NUMBER_BYTES = 8
_HEAD_BYTES = 256  # room for labels, lengths and digests of either message

Table = NDArray[np.float64]


def rows_at_most(declaration: Declaration, limits: ScoringLimits) -> int:
    """How many rows one request may have: the limit's, or what the largest size holds."""
    widest = max(len(declaration.inputs), len(declaration.outputs))
    return min(limits.rows_per_request, (BUCKETS[-1] - _HEAD_BYTES) // (_NUMBER_BYTES * widest))


@dataclass(frozen=True, slots=True)
class Request:
    """Rows to be scored: ``values``, float64[rows, inputs], finite, the columns in the declaration's order."""

    values: Table = field(repr=False)

    def encode(self) -> bytes:
        """The padded plaintext of a request.

        Raises:
            ChannelError: SCORING_ROWS: more than the largest size holds.
        """
        data = np.ascontiguousarray(self.values, dtype="<f8").tobytes()
        return _padded(_REQUEST, len(self.values).to_bytes(4, "big"), data)

    @classmethod
    def decode(cls, plaintext: bytes, declaration: Declaration, limits: ScoringLimits) -> Request:
        """The request in ``plaintext``, whose writer may be lying about all of it.

        Raises:
            WireError: not a padded request. ChannelError: SCORING_ROWS, SCORING_REQUEST.
        """
        rows_field, data = _unpadded(plaintext, _REQUEST)
        rows, columns = int.from_bytes(exactly(rows_field, 4, "request.rows"), "big"), len(declaration.inputs)
        most = rows_at_most(declaration, limits)
        if not 1 <= rows <= most:
            raise ChannelError(Reason.SCORING_ROWS, f"request.rows: 1 to {most} expected")
        if len(data) != rows * columns * _NUMBER_BYTES:
            raise ChannelError(Reason.SCORING_REQUEST, "request.values: a number for each row and declared column")
        values = np.frombuffer(data, dtype="<f8").reshape(rows, columns).astype(np.float64)
        if not np.isfinite(values).all():
            raise ChannelError(Reason.SCORING_REQUEST, "request.values: finite numbers expected")
        return cls(values)


def encode_scores(request: bytes, scores: Table) -> bytes:
    """The padded answer to the plaintext ``request``: ``scores``, float64[rows, outputs]."""
    return _answer(request, 0, np.ascontiguousarray(scores, dtype="<f8").tobytes())


def encode_refusal(request: bytes, reason: Reason) -> bytes:
    """The padded answer to ``request`` that gives a reason and no scores."""
    return _answer(request, int(reason), b"")


def decode_answer(plaintext: bytes, request: bytes, declaration: Declaration, rows: int) -> Table:
    """The scores, float64[rows, outputs], that answer exactly the plaintext ``request`` of ``rows`` rows.

    Raises:
        WireError: not a padded answer. ScoringRefused: the service gave a reason instead.
        ChannelError: SCORING_ANSWER: to another request, or of another shape, or not finite.
    """
    digest, reason_field, data = _unpadded(plaintext, _ANSWER, 3)
    if digest != sha256(request):
        raise ChannelError(Reason.SCORING_ANSWER, "answer: to another request")
    number = int.from_bytes(exactly(reason_field, 2, "answer.reason"), "big")
    if number:
        raise ScoringRefused(number)
    if len(data) != rows * len(declaration.outputs) * _NUMBER_BYTES:
        raise ChannelError(Reason.SCORING_ANSWER, "answer.values: a number for each row and declared score expected")
    scores = np.frombuffer(data, dtype="<f8").reshape(rows, len(declaration.outputs)).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ChannelError(Reason.SCORING_ANSWER, "answer.values: finite numbers expected")
    return scores


class ScoringRefused(ChannelError):
    """The service answered with a reason, inside the session: it is the attested service's own word."""

    def __init__(self, number: int) -> None:
        known = Reason(number) if number in {reason.value for reason in Reason} else Reason.SCORING_ANSWER
        super().__init__(known, "said by the service; the session goes on")


def _answer(request: bytes, number: int, data: bytes) -> bytes:
    return _padded(_ANSWER, sha256(request), number.to_bytes(2, "big"), data, least=len(request))


def _padded(label: str, *fields: bytes, least: int = 0) -> bytes:
    """The record of ``fields`` and zeros: as long as the first size that holds it, and no shorter than ``least``."""
    bare = len(pack(label, *fields, b""))
    size = next((size for size in BUCKETS if size >= max(bare, least)), 0)
    if not size:
        raise ChannelError(Reason.SCORING_ROWS, f"message: at most {BUCKETS[-1]} bytes; send fewer rows at a time")
    return pack(label, *fields, bytes(size - bare))


def _unpadded(plaintext: bytes, label: str, count: int = 2) -> tuple[bytes, ...]:
    *fields, padding = unpack(plaintext, label, count + 1)
    if len(plaintext) not in BUCKETS or padding.strip(b"\0"):
        raise WireError(Reason.NOT_CANONICAL, "message: zeros up to one of the sizes expected")
    return tuple(fields)
