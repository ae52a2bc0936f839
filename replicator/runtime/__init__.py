"""A running region: ``service`` (read first), ``context`` is what lasts, ``roles`` what a role has."""
