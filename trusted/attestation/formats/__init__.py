"""Pure parsers, one file for each evidence format: bytes to fields, no cryptography, no opinion; for ``verify``."""
