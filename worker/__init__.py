"""The whole worker runs inside the member's TEE. Consoles and simulations may import its core, never its shells."""
