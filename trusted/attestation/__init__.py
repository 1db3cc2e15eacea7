"""Evidence to claims to verdict (parse, verify, appraise): pure, no I/O; anybody may import it. Zone: every TEE."""
