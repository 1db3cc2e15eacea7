"""The coordinator host: UNTRUSTED. It carries ciphertext and public events, and holds no key that protects anything.

It may import the door, `trusted.errors`, `trusted.wire` and `trusted.documents`, and never the enclave or the inside of
the attested channel. The console may read `run_status`; nobody else imports this package.
"""
