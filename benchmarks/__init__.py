"""Measurements of Cloister, run by people and never asserted on; nothing imports from here, and no image carries it."""
