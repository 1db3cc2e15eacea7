"""The documents that members sign, from bytes to verified types; read by every TEE, by the host and by the console."""
