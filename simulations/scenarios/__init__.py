"""Questions that a federation raises, each answered by one file with one command, one figure and one table.

Trust zone: the developer's machine; public or invented data. Every plan term in them is a real one, read by the plan's
own rules. ``cloister simulate scenario NAME`` runs them; nothing else imports them.
"""
