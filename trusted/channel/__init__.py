"""The attested channel: mutual handshake, records and re-attestation, no I/O. For aggregator and worker (protocol.md §4)."""
