"""All lies by name. Trust zone: the developer's machine."""

from __future__ import annotations

from collections.abc import Mapping

from simulations.hosts.blob_lies import BLOB_LIES
from simulations.hosts.lie import Lie
from simulations.hosts.state_lies import STATE_LIES
from simulations.hosts.wire_lies import WIRE_LIES

LIES: Mapping[str, Lie] = {lie.name: lie for lie in (*STATE_LIES, *WIRE_LIES, *BLOB_LIES)}
