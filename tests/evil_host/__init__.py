"""The host and dishonest peers against whole runs in memory. Tests only; nothing imports it."""
