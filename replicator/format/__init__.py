"""What is hashed, sent and stored: blocks, statements, rows, positions, and the digests of them. Pure."""
