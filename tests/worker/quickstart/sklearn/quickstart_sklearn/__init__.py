"""A quickstart app, as ``flwr new`` lays one out."""
