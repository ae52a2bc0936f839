"""PostgreSQL, whoever talks to it: sessions and their settings, errors, and the names that are ours in a database."""
