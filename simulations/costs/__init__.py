"""What this machine needs to do one thing to a byte or a message: seal, open, fold, carry. Measured, never assumed.

Trust zone: the developer's machine. ``benchmarks`` prints these figures; ``simulations.capacity`` predicts with them.
"""
