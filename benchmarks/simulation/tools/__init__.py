"""What runs inside a tool's own environment: ``python -m benchmarks.simulation.tools.NAME ASKED``. Imports no Cloister,
but for ``ours``; reads ``ASKED`` (:mod:`benchmarks.simulation.asked`) and leaves what it found beside it.
"""
