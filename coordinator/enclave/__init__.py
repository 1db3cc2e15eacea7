"""The aggregator, measured: rounds, folding, release. No clock, no log; the door in ``__main__`` is its only I/O."""
