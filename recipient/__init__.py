"""The recipient runtime: the whole process is inside the recipient's TEE. It opens a released model, and scores."""
