"""Tests of attestation; real vendor evidence is read from CLOISTER_VECTORS, software evidence is made on the spot."""
