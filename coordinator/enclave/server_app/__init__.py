"""The app's own server beside the aggregator: what it may ask, and the exchanges that this makes (docs/server-apps.md).

Trust zone: aggregator TEE. No I/O, no clock, no Flower. The child that runs the app stands behind
:class:`~coordinator.enclave.server_app.asks.ServerApp`; ``coordinator.enclave.server_process`` is its shell.
"""

from coordinator.enclave.server_app.asks import ServerApp
from coordinator.enclave.server_app.exchanges import Exchanges
from coordinator.enclave.server_app.turns import Turns

__all__ = ["Exchanges", "ServerApp", "Turns"]
