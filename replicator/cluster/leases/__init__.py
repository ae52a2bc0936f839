"""The right to be primary: one holder at a time, for a time, in an epoch that only grows.

Where to look: ``base`` (the protocol, what a holder may rely on), ``static`` (a file on this machine, or by hand),
``etcd``. ``replicator/runtime/wiring.py`` builds the one that ``[lease]`` names.
"""
