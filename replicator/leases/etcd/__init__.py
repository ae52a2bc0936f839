"""Leases in etcd v3.4 or newer, through its JSON gateway.

Where to look: ``lease`` (claims and renewals as transactions), ``gateway`` (members, credentials, TLS, faults),
``answers`` (what etcd's JSON says).
"""

from replicator.leases.etcd.gateway import EtcdOptions
from replicator.leases.etcd.lease import EtcdLease

__all__ = ["EtcdLease", "EtcdOptions"]
