"""What is measured into every TEE and shared by aggregator and worker: no network, no clock, no log of its own."""
