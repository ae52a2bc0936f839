"""What is hashed, sent and stored: blocks, statements, rows, definitions, positions, and the digests made of them. Pure."""
