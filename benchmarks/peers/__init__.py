"""Cloister and its peers side by side: each installed on its own, driven as deployed, and ended by process id.

What runs inside a peer's own environment lies in ``apps`` and imports nothing from here. Imported by the command alone.
"""
