"""Who may write: leases, fences, the controller of failover, promotion, and the way back of a former primary."""
