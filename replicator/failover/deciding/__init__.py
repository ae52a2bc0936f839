"""What a region does next in each of its states; ``failover/decide`` is where to begin."""
