"""What a SQLite replica needs, looked at before the start. Changes nothing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from replicator.config.finding import Finding, failed
from replicator.errors import ReplicatorError
from replicator.format.definition import Definition
from replicator.pipeline.replicas.shape import table_differs
from replicator.pipeline.replicas.sqlite import schema
from replicator.storage import sqlite

OLDEST_VERSION = (3, 35, 0)  # ON CONFLICT without a target, DROP COLUMN


def preflight(path: Path | str, definitions: Iterable[Definition] = ()) -> list[Finding]:
    """Writable, whole, tables that can be taken. ``definitions`` are those of the region's journal, if it has one."""
    file = Path(path)
    findings = []
    if sqlite3.sqlite_version_info < OLDEST_VERSION:
        cure = "run Python with a newer SQLite"
        findings.append(Finding("fail", f"SQLite {sqlite3.sqlite_version} is older than 3.35", cure))
    for wanted in (file.parent, file):
        if wanted.exists() and not os.access(wanted, os.W_OK):
            findings.append(Finding("fail", f"{wanted} cannot be written", "give the sidecar's user the right to"))
    if not file.parent.is_dir():
        findings.append(Finding("fail", f"{file.parent} is no directory", "create it, or change the replica's path"))
    if file.exists():
        try:
            findings += _tables(file, definitions)
        except ReplicatorError as error:
            findings.append(failed(error))
    return findings or [Finding("ok", f"{file} can be written")]


def _tables(file: Path, definitions: Iterable[Definition]) -> list[Finding]:
    with sqlite.translated(file):
        connection = sqlite.look(file)
        try:
            own = "SELECT 1 FROM sqlite_master WHERE name = '_replicator_definition'"
            known = schema.current_definitions(connection) if connection.execute(own).fetchone() else {}
            findings = []
            for definition in {**{coming.label: coming for coming in definitions}, **known}.values():
                problem = schema.difference(connection, definition, known.get(definition.label))
                if problem:
                    error = table_differs(definition, problem)
                    findings.append(Finding("fail", f"{file}, {error.place}: {error.message}", error.cure))
            return findings
        finally:
            connection.close()
