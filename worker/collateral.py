"""Collateral from the coordinator's host, fetched before evidence is made. Trust zone: outside the session.

The host may lie, flood and stall: names are counted, files measured, and all of it ends after a minute. What arrives is
bytes; :mod:`trusted.evidence.collateral_offer` decides. Without it a site goes on with what its operator brought.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from protos.v1 import cloister_pb2, cloister_pb2_grpc
from trusted.attestation.collateral import MAX_ENDORSEMENT_BYTES
from trusted.attestation.roots import TrustRoot
from trusted.errors import ProtocolError, Reason, WireError
from trusted.evidence.collateral_offer import MAX_OFFERED_FILES, Offer, held_files, take_offer
from trusted.evidence.collateral_store import CollateralStore
from trusted.wire import sha256
from worker.grpc_channel import refusal_of

_TIMEOUT_S = 60.0
_PAUSE_S = 3600.0


def fetch_files(channel: grpc.Channel, held: Collection[bytes]) -> tuple[bytes, ...]:
    """The files that the host serves and that are not ``held`` (SHA-256): at most 256, each of at most 256 KiB.

    Raises:
        WireError: TOO_LARGE or MALFORMED: more, larger ones, or one that is not what its name says.
        RunError: the host refuses, or stays out of reach.
    """
    stub: Any = cloister_pb2_grpc.CollateralStub(channel)
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        names = [name.sha256 for name in stub.List(cloister_pb2.CollateralQuery(), timeout=_TIMEOUT_S).files]
        if len(names) > MAX_OFFERED_FILES:
            raise WireError(Reason.TOO_LARGE, f"collateral: at most {MAX_OFFERED_FILES} files expected")
        wanted = [name for name in dict.fromkeys(names) if name not in held]
        return tuple(_fetch(stub, name, deadline - time.monotonic()) for name in wanted)
    except grpc.RpcError as error:
        raise refusal_of(error) from None


def _fetch(stub: Any, name: bytes, timeout_s: float) -> bytes:
    content: bytes = stub.Get(cloister_pb2.CollateralName(sha256=name), timeout=max(timeout_s, 0.0)).content
    if len(content) > MAX_ENDORSEMENT_BYTES:
        raise WireError(Reason.TOO_LARGE, f"collateral: files of at most {MAX_ENDORSEMENT_BYTES} bytes expected")
    if sha256(content) != name:
        raise WireError(Reason.MALFORMED, "collateral: a file is not what its name says")
    return content


def fetch_offer(channel: grpc.Channel, store: CollateralStore, roots: Sequence[TrustRoot], now: datetime) -> Offer:
    """Fetch what ``store`` does not hold and keep what is newer (:func:`take_offer`).

    Raises:
        ProtocolError, OSError: nothing was taken, or the store cannot be read or written.
    """
    return take_offer(store, fetch_files(channel, held_files(store)), roots, now)


class HostCollateral:
    """A site's own store, filled up from its coordinator's host, once an hour at most."""

    def __init__(
        self, channel: Callable[[], grpc.Channel], directory: str, roots: Sequence[TrustRoot], note: Callable[..., None]
    ) -> None:
        self._channel = channel
        self._store = CollateralStore(Path(directory)) if directory else None
        self._roots = roots
        self._note = note
        self._next = 0.0

    def refresh(self) -> None:
        """Ask the host and say in one line what came of it. Nothing that goes wrong here stops a worker."""
        if self._store is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAUSE_S
        try:
            offer = fetch_offer(self._channel(), self._store, self._roots, datetime.now(UTC))
        except ProtocolError as error:
            self._note("collateral-refused", reason=error.reason.code, detail=error.detail)
        except OSError as error:
            self._note("collateral-refused", detail=f"{error.strerror}: {error.filename}")
        else:
            reasons = sorted({error.reason.code for error in offer.refused})
            self._note("collateral", taken=len(offer.taken), refused=len(offer.refused), reasons=reasons)
