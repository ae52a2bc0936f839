"""How tables, documents and changes look in answers.

Guarantee: a documents table shows ``version`` and ``document``, any other table ``row``; the same in every region.
"""

from __future__ import annotations

import datetime
from typing import Any

from replicator.format.definition import Definition
from replicator.ledger.key_past import KeyVersion
from replicator.pipeline.replicas.base import Document

Content = dict[str, Any]


def describe(definition: Definition) -> Content:
    """A table for people."""
    columns = [{"name": column.name, "type": column.type} for column in definition.columns]
    return {
        "table": definition.label,
        "key": list(definition.key),
        "user": definition.user,
        "documents": definition.documents,
        "columns": columns,
    }


def show_document(document: Document) -> Content:
    """A row for people: a document with its version, or the row's columns."""
    return {"table": document.definition.label, "key": document.key, **_show_row(document.definition, document.row)}


def show_version(version: KeyVersion) -> Content:
    """A change for people."""
    entry = version.entry
    content: Content = {
        "sequence": entry.sequence,
        "ordinal": entry.ordinal,
        "epoch": entry.epoch,
        "transaction": entry.txid,
        "committed_at": show_time(entry.committed_at),
        "op": entry.op.name.lower(),
    }
    if version.row is None:
        return content
    content.update(_show_row(entry.definition, version.row))
    if version.unknown:
        content["unknown"] = version.unknown
    return content


def _show_row(definition: Definition, row: dict[str, Any]) -> Content:
    if definition.documents:
        return {"version": row["version"], "document": row["document"]}
    return {"row": row}


def show_time(microseconds: int) -> str:
    """RFC 3339 in UTC, to the microsecond."""
    try:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=microseconds)
    except OverflowError:  # a clock that is far off; a read does not fail over it
        return f"{microseconds} µs since 1970"
    return moment.isoformat(timespec="microseconds") + "Z"


def key_texts(document: Document) -> list[str]:
    """A document's key as the texts that find it."""
    values = document.key.values()
    return [str(value).lower() if isinstance(value, bool) else str(value) for value in values]
