"""A ledger replication and failover sidecar. Start reading at ``replicator/runtime/service.py``."""

__version__ = "0.1.0"
