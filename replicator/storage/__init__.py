"""What a region keeps on disk: its data directory, small durable files, SQLite files, and the journal."""
