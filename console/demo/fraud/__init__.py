"""SYNTHETIC card and transfer fraud at five invented banks: nothing here is, or was made from, anybody's data.

Only ``console.demo`` imports it.
"""
