"""Simulators side by side: the same sites, cohorts and arithmetic for each, in an environment of its own."""
