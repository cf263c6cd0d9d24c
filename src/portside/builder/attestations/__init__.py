"""What is attested of a build: where its result comes from, and what is in it."""
