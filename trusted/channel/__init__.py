"""The attested channel: handshake, records, re-attestation, no I/O. For aggregator and worker (protocol.md §4)."""
