"""A host that lies, between peers that are those of production: a library of named lies, and a server that believes.

Trust zone: the developer's machine. Tests, scenarios and users import it. Documents, keys, evidence, sessions, sealed
blobs, the log and its witnesses are real, under a software root; only what carries frames and blobs is made up.
"""
