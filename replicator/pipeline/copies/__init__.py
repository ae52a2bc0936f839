"""Consistent copies of a region, for regions that are made anew: what is served, and its form on the wire."""
