"""A program for an enclave: it fetches one key from a broker, and says which, or why it got none. Measured as it is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.channel.federation import Federation
from trusted.documents.charter import verify_charter
from trusted.documents.grant import Holder, commitment
from trusted.documents.plan import verify_plan
from trusted.errors import ProtocolError
from trusted.evidence.boot import Boot
from trusted.keys.requester import Asker, KeyRequester
from worker.key_client import BrokerAddress, fetch_key


def main(boot: Boot) -> int:
    """One request."""
    now, options = datetime.now(UTC), boot.options
    charter = verify_charter(boot.charter, now)
    federation = Federation(charter, verify_plan(boot.plan, charter, now))
    key_id = bytes.fromhex(options["key_id"])

    def ask() -> KeyRequester:
        key = Ed25519PrivateKey.from_private_bytes(Path(options["worker_key"]).read_bytes())
        asker = Asker(Holder.WORKER, boot.provider, options["credential"].encode(), key)
        return KeyRequester(federation, asker, key_id=key_id, member=options["member"])

    try:
        address = BrokerAddress(options["broker"], options["ca_pem"].encode())
        granted = fetch_key(address, ask, patience_s=0)
    except ProtocolError as error:
        print(f"refused {error.detail}", flush=True)
        return 1
    print(f"granted {commitment(key_id, granted.key.secret).hex()}", flush=True)
    return 0
