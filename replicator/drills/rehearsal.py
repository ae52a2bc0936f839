"""Rehearsal."""

from replicator.errors import ConfigError


async def rehearse(*arguments: object) -> None:
    """Not yet."""
    raise ConfigError("not_yet", "not yet")
