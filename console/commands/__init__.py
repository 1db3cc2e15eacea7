"""One module for each command, exposing ``app`` or ``command``; only ``console.main`` imports them."""
