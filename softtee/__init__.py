"""The software TEE plays the processor: in no image; only the launcher, the console and tests may import it."""
