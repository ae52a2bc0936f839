"""``replicator drill``."""
