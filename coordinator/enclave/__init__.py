"""The aggregator, measured: rounds, folding, release. No network, no clock, no log; the door of ``__main__`` is its only I/O."""
