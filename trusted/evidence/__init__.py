"""Where a TEE gets its own evidence, with I/O; both enclaves and whatever starts them may import it."""

from trusted.evidence.provider import EvidenceProvider

__all__ = ["EvidenceProvider"]
