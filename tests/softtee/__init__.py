"""The software TEE: its measurements, its launcher, and what an enclave under it cannot do."""
