"""The recipient runtime's process shell: one model, one port, until SIGTERM. Trust zone: recipient TEE.

It dials one broker and listens on one port. A refusal by its own rules ends it before anybody hears of it; once the
key's time is over it answers with the reason, without a model, until its operator ends it.
"""

from __future__ import annotations

import json
import sys

from recipient.start import Options, Prepared, prepare
from trusted.errors import ProtocolError
from trusted.evidence.boot import Boot
from trusted.evidence.clocks import counted_s, utc_now


def main(boot: Boot) -> int:
    """Serve one released model. 0 when the operator ended this; 1 when it cannot serve."""
    try:
        options = Options.read(boot)
        prepared = prepare(boot, options, note)
        try:
            _serve(boot, options, prepared)
        finally:
            prepared.scorer.wipe()
    except ProtocolError as error:
        note("recipient-refused", reason=error.reason.code, name=error.reason.name, detail=error.detail)
        return 1
    except OSError as error:
        note("recipient-failed", detail=f"{error.strerror}: {error.filename}")
        return 1
    note("service-ended")
    return 0


def _serve(boot: Boot, options: Options, prepared: Prepared) -> None:
    # Not above: gRPC starts threads when it is imported, and the process that scores must be forked before.
    import asyncio

    from recipient.key_source import BrokerKeys
    from recipient.limits import ServiceLimits
    from recipient.port import Clocks
    from recipient.serving import Runtime, obtain, serve
    from trusted.documents.grant import Holder
    from trusted.keys.binding import model_key_id
    from trusted.keys.requester import Asker
    from worker.key_client import BrokerAddress

    asker = Asker(Holder.RECIPIENT, boot.provider, options.credential.encode(), prepared.worker_key)
    key_id = model_key_id(prepared.released.release)
    broker = BrokerAddress(options.broker, options.broker_ca_pem.encode() or None)
    keys = BrokerKeys(prepared.federation, asker, key_id, options.grantor, broker)
    runtime = Runtime(prepared, options, keys, boot.provider, Clocks(utc_now, counted_s), note)
    asyncio.run(serve(runtime, obtain(runtime), ServiceLimits()))


def note(event: str, **fields: object) -> None:
    """One line for the operator's log: events, numbers and reasons, never rows, scores or keys."""
    sys.stderr.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stderr.flush()
