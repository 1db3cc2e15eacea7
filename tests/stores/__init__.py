"""Real servers that the tests of shared stores start: PostgreSQL, and one that speaks S3."""
