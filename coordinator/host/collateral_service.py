"""``Collateral.List|Get``: what this host's operator keeps, for sites without a network. Trust zone: host.

The files are the vendors' public statements. A site verifies what it is served, so that nothing rests on this host.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

from coordinator.host.collateral import INDEX, read_index
from coordinator.host.limits import MAX_COLLATERAL_BYTES, MAX_COLLATERAL_FILES
from coordinator.host.rpc import Context, Reception
from protos.v1 import cloister_pb2
from trusted.errors import Reason, RunError, WireError

# What a site can order by number or date and verify by itself, and the certificates by which it does. Key sets and
# reference manifests have no order of their own: a charter pins them, or an operator brings them.
_SERVED_KINDS = frozenset({"crl", "tcb-info", "qe-identity", "certificate"})


class CollateralService:
    """The gRPC servicer: the store's files to whoever asks, for they are public. Nobody can write, or name a path.

    A peer names 32 bytes. They are looked up in the index, and only what the index says is opened.
    """

    def __init__(self, store: Path | None, reception: Reception) -> None:
        self._store = store
        self._reception = reception

    async def List(self, request: Any, context: Context) -> Any:
        """The names of at most 256 files; none where nothing is kept."""
        async with self._reception.serve(context, "Collateral.List"):
            files = await asyncio.to_thread(self._files)
            names = [cloister_pb2.CollateralName(sha256=bytes.fromhex(file)) for file in files]
            return cloister_pb2.CollateralNames(files=names)

    async def Get(self, request: Any, context: Context) -> Any:
        """One file that :meth:`List` names."""
        async with self._reception.serve(context, "Collateral.Get"):
            content = await asyncio.to_thread(self._content, request.sha256)
            return cloister_pb2.CollateralFile(content=content)

    def _files(self) -> list[str]:
        if self._store is None or not (self._store / INDEX).exists():
            return []
        try:
            kept = read_index(self._store / INDEX)
        except (OSError, WireError, ValueError):
            raise RunError(Reason.BLOB_UNKNOWN, "collateral: this host cannot read its own store") from None
        return sorted({item.file for item in kept if item.kind in _SERVED_KINDS})[:MAX_COLLATERAL_FILES]

    def _content(self, sha256: bytes) -> bytes:
        named = next((file for file in self._files() if bytes.fromhex(file) == sha256), None)
        if self._store is None or named is None:
            raise RunError(Reason.BLOB_UNKNOWN, "collateral: no such file here; list them again")
        try:
            descriptor = os.open(self._store / named, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(MAX_COLLATERAL_BYTES + 1)
        except OSError:
            content = b""
        if hashlib.sha256(content).digest() != sha256 or len(content) > MAX_COLLATERAL_BYTES:
            raise RunError(Reason.BLOB_UNKNOWN, "collateral: the file was changed on this host; import it again there")
        return content
