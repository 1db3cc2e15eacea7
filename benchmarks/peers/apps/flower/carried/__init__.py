"""A model is carried to each worker and back; nothing is trained. Runs in Flower's own environment."""
