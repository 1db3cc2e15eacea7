"""Handing a content key to an attested TEE: both sides of the exchange, no I/O (docs/protocol.md §15). Imported by
every TEE that asks for a key, and by the broker of a member that hands one out."""
