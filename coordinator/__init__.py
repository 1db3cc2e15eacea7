"""The coordinator: `enclave` is trusted, `host` is not, and the `door` modules are the one line between them.

Nothing else lives here. `enclave` and `host` never import each other; both may import the door.
"""
