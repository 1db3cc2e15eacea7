"""Asking an attested recipient runtime for scores: handshake, requests, answers, no I/O (docs/protocol.md §16).

Trust zone: recipient TEE, and the client's machine. Whoever carries the frames between them may be lying.
"""
