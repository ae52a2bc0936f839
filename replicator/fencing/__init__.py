"""Fencing: making a region that is not the primary unable to take its applications' writes.

Where to look: ``base`` (what every fence promises), ``postgres`` (the fence of a PostgreSQL database) with ``sql`` (what
it installs there), ``session`` (talking to it in bounded time) and ``needs`` (what its role must be allowed to).
"""
