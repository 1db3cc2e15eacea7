"""The witnessed, append-only log of a run (docs/protocol.md §12): pure, no I/O, no clock.

Every TEE may import it, and so may consoles and auditors: nothing here is secret but the keys that callers sign with.
"""
