"""A running region: ``service`` (read first) starts and stops it, ``context`` is what lasts, ``roles`` is what a role has."""
