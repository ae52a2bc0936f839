"""Preflight: everything that ``run`` will need, looked at before the start.

Guarantee asked of every check that returns findings (``config/finding``): it changes nothing, and it names a cure for
all that is not ok. Nothing of the world's is raised: what cannot be looked at is a finding, too.

Where to look: ``checks`` (which checks a region needs), ``machine`` (versions, directory, disk), ``listener``
(address, TLS), ``feed`` (the primary's feed), ``lease`` (who may be primary), ``cluster`` (the other regions of
it, and whether this one could take over), ``stored_region`` (what the region has already). The databases' own checks
are with their sources and replicas.
"""
