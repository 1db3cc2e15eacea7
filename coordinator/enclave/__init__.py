"""The aggregator, measured: rounds, folding, release. No network, clock or log; the door in ``__main__`` is its only I/O."""
