"""A member's key broker: its content keys, its grants, and who got what. Trust zone: that member's own machine or TEE.

Nobody else trusts a broker, and it trusts nobody: whoever asks proves itself by the rules of `trusted.keys`. It holds
no signing key of its member. Imported by the console alone.
"""
