"""What the commands of ``cloister simulate`` do; only :mod:`simulations.command` imports it, when one is called.

Trust zone: the developer's machine.
"""
