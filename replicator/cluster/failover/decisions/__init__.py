"""What a region does next in each of its states; ``cluster/failover/decide`` is where to begin."""
