"""What evidence must say: one language, a policy for each platform; only ``trusted.attestation`` imports from here."""
