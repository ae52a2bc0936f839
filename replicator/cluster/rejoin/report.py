"""The report on orphans as a file: one transaction a line, so that it is written and read without holding it whole.

The file is one JSON object: what is sealed, ``transactions`` (``transaction_facts.py``, each with ``judged``), and at
its end ``counts`` by verdict. Times are RFC 3339; rows are canonical texts by column.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from replicator.cluster.rejoin.conflict_check import VERDICTS
from replicator.ledger.presentation import show_time
from replicator.storage.data_dir import SealDir
from replicator.storage.journal.sealed import Seal

COUNTS_BYTES = 1_000  # the last line is shorter

Fields = dict[str, Any]


def heading(seal: Seal, region: str, other: str) -> Fields:
    """What a report says before its transactions."""
    return {
        "format": 1,
        "orphans": seal.id,
        "strand": seal.strand,
        "region": region,
        "in_charge": other,
        "fork": str(seal.fork),
        "last": str(seal.last),
        "judged_at": str(seal.theirs),
        "sealed_at": show_time(seal.sealed_at),
        "blocks": seal.blocks,
    }


def write_lines(head: Fields, transactions: Iterable[Fields]) -> Iterator[str]:
    """The file's lines."""
    counts: Counter[str] = Counter(dict.fromkeys(VERDICTS, 0))
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "transactions": [\n'
    separator = ""
    for transaction in transactions:
        counts[transaction["judged"]["verdict"]] += 1
        yield separator + json.dumps(transaction, ensure_ascii=False)
        separator = ",\n"
    yield f'\n], "counts": {json.dumps(counts)}}}\n'


def read_heading(directory: Path) -> Fields:
    """What stands before the transactions, and the counts."""
    with SealDir(directory).report.open("rb") as file:
        first = file.readline().decode()
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - COUNTS_BYTES))
        last = file.read().decode(errors="replace").rsplit("\n], ", 1)[-1]
    head: Fields = json.loads(first.rstrip().removesuffix('"transactions": [').rstrip().rstrip(",") + "}")
    head["counts"] = json.loads("{" + last)["counts"]
    return head


def read_transactions(directory: Path) -> Iterator[Fields]:
    """The transactions, one at a time."""
    with SealDir(directory).report.open(encoding="utf-8") as file:
        file.readline()
        for line in file:
            if line.startswith("], "):
                return
            if line.strip():
                yield json.loads(line.rstrip().removesuffix(","))
