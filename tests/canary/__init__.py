"""A federation of real processes whose secrets the test knows, and a search for them in all that a host has."""
