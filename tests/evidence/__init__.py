"""Where a TEE gets its evidence, against faithful fakes of the kernel. Nobody imports from here."""
