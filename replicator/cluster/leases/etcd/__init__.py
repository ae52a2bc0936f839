"""Leases in etcd v3.4 or newer, through its JSON gateway.

Where to look: ``lease`` (the steps, and why they are safe), ``transactions`` (claims as etcd's compare and put),
``gateway`` (which member is asked), ``member`` (one request: credentials, faults), ``answers`` (what etcd's JSON says).
"""

from replicator.cluster.leases.etcd.lease import EtcdLease
from replicator.cluster.leases.etcd.options import EtcdOptions

__all__ = ["EtcdLease", "EtcdOptions"]
