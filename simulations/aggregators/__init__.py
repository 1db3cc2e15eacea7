"""Who folds a simulation's rounds: production's rules on bare vectors, or a whole aggregator behind its protocol.

Trust zone: the developer's machine. :mod:`simulations.simulation` chooses one.
"""
