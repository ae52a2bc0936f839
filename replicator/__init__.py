"""A ledger replication and failover sidecar. Start reading at ``replicator/service.py``."""

__version__ = "0.1.0"
