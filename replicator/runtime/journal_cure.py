"""What helps a region whose journal is damaged or gone: it depends on who else has all of it. Pure."""

from __future__ import annotations

from replicator.config import Config
from replicator.config.models import EmbeddedSourceSettings

NEW_REGION = "stop the sidecar; replicator bootstrap CONFIG --replace"


def journal_cure(config: Config) -> str:
    """In words, for the region with this configuration."""
    if config.cluster is not None:
        return f"make this region anew once it does not lead: {NEW_REGION}"
    if config.region.role == "replica":
        return f"make this region anew: {NEW_REGION}"
    if isinstance(config.source, EmbeddedSourceSettings):
        return (
            "stop the sidecar, and that of a region that follows; take its journal (journal.sqlite3 in its data_dir):"
            " replicator rebuild CONFIG --journal FILE"
        )
    return "set the data directory aside and start anew from a first copy; then make the other regions anew from it"
