"""What a person uses: the command line and what it shows. Nothing imports it; it runs on a member's machine."""
