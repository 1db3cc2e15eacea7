"""Virtual federations: thousands of sites on one machine, with the folding, privacy and rules that production has.

Trust zone: the developer's machine; never shipped in an image. May import everything below; only tests and benchmarks
import it. The console finds its command through the entry point ``cloister.commands``.
"""
