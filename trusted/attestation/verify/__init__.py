"""Cryptography alone: evidence to claims, one file for each format; anybody may import it. Trust zone: every TEE."""
