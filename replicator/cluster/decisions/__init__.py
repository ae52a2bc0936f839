"""What a region of a cluster does next: pure decisions, which the simulation runs as they are. Begin at ``decide``."""
