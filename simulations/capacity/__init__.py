"""How long a round would take, what memory and traffic it needs, for sites, model and links that nobody has yet.

Trust zone: the developer's machine. Predictions stand on costs measured here (:mod:`simulations.costs`) and on the
bounds that the host and plans have; ``python -m benchmarks capacity`` holds them against deployed rounds.
"""
