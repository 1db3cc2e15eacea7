"""What every TEE that runs an app's code shares: the bundle, the confined child, and messages as bytes.

Worker, recipient and aggregator import it; ``flower_component`` and ``flower_records`` alone import flwr, and only a
confined child imports them.
"""
