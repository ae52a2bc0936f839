"""The report on orphans for people: one HTML file that needs nothing else.

Guarantee: everything that comes from a ledger is escaped; there is no script, and nothing is asked for from elsewhere.
Of very many transactions the first are shown, and it says how many are not: ``report.json`` has them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from replicator.cluster.rejoin.conflict_check import CLEAN, CONFLICT, NOTHING, THERE
from replicator.transport.page_style import CSS

TRANSACTIONS_SHOWN = 1_000
STATEMENTS_SHOWN = 50  # of a transaction
CELL_CHARACTERS = 2_000

_MEANINGS = {
    CLEAN: ("can be re-applied", "good", "Every row that it touches is there as it was before it."),
    CONFLICT: ("conflict", "bad", "Something that came since touches what it touches. A person decides."),
    THERE: ("already there", "good", "The region in charge has it: nothing is to be done."),
    NOTHING: ("changes no row", "soft", "Nothing is to be done."),
}
_OWN_CSS = """
.change { table-layout: fixed; min-width: 720px; } .change td { font-size: 13px; overflow-wrap: anywhere; }
.change th:nth-child(-n+3) { width: 12%; } ins { text-decoration: none; color: var(--good); font-weight: 600; }
del { color: var(--bad); } h3 { font-size: 15px; margin: 0; } .why { margin: 8px 0; padding-left: 18px; }
section > header { margin-bottom: 8px; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

Fields = dict[str, Any]
Row = dict[str, str | None]


def page(head: Fields, transactions: Iterable[Fields]) -> Iterator[str]:
    """The file in pieces."""
    title = f"Orphans {head['orphans']} of {head['region']}"
    yield (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width"><style>'
        f"{CSS}{_OWN_CSS}</style></head><body><main>{_top(head)}"
    )
    for number, transaction in enumerate(transactions):
        if number == TRANSACTIONS_SHOWN:
            rest = head["blocks"] - TRANSACTIONS_SHOWN
            yield f'<section class="notice wait"><p>{rest:,} more transactions are in report.json.</p></section>'
            break
        yield _transaction(transaction)
    yield (
        "<footer>The blocks themselves lie in blocks.frames beside this file, byte for byte; seal.json has the sums of"
        " all files. Nothing here was taken from the ledger before it was safe here.</footer></main></body></html>\n"
    )


def _top(head: Fields) -> str:
    figures = "".join(
        f'<div><b class="{kind}">{head["counts"].get(verdict, 0):,}</b><span>{escape(name)}</span></div>'
        for verdict, (name, kind, _) in _MEANINGS.items()
    )
    blocks = "1 block" if head["blocks"] == 1 else f"{head['blocks']:,} blocks"
    return (
        f"<header><h1>Blocks that only {escape(head['region'])} had</h1>"
        f'<span class="soft">strand {escape(head["strand"])}, sealed {escape(head["sealed_at"])}</span></header>'
        f'<section><div class="figures">{figures}</div>'
        f"<p>{blocks} were committed in region <b>{escape(head['region'])}</b> and reached no other region before"
        " another one took charge. They are kept here, sealed before anything was undone, so that the region can follow"
        " again. What follows is what each of them had done, and how that stands to the history in charge"
        f" (<code>{escape(head['in_charge'])}</code>), judged when they were sealed;"
        f" <code>replicator orphans show CONFIG {escape(head['orphans'])}</code> judges anew.</p>"
        f'<p class="small soft">Both histories agree up to <code>{escape(head["fork"])}</code>.<br>'
        f"Last of these blocks: <code>{escape(head['last'])}</code>.<br>Judged by the history up to"
        f" <code>{escape(head['judged_at'])}</code>.</p></section>"
    )


def _transaction(transaction: Fields) -> str:
    name, kind, meaning = _MEANINGS[transaction["judged"]["verdict"]]
    users = ", ".join(map(str, transaction["users"][:5])) or "no user"
    request = f", request {transaction['request']}" if transaction["request"] else ""
    why = transaction["judged"]["why"]
    shown, left = transaction["statements"][:STATEMENTS_SHOWN], transaction["left_out"]
    left += len(transaction["statements"]) - len(shown)
    more = f'<p class="soft small">{left:,} more statements.</p>' if left else ""
    return (
        f'<section id="{int(transaction["sequence"])}"><header><h3>{int(transaction["sequence"]):,}</h3>'
        f'<span class="state {kind}">{escape(name)}</span>'
        f"<span>{escape(transaction['committed_at'])}</span>"
        f'<span class="soft">{escape(users)}, transaction {escape(transaction["transaction"])}{escape(request)}, epoch'
        f" {int(transaction['epoch'])}</span></header>"
        f'<p class="small">{escape(meaning)}</p>{_why(why)}'
        f'<div class="wide"><table class="change"><tr><th>Table</th><th>Key</th><th>What</th><th>Before</th>'
        f"<th>After</th><th>{'In charge now' if any('now' in reason for reason in why) else ''}</th></tr>"
        f"{''.join(_statement(statement, why) for statement in shown)}</table></div>{more}</section>"
    )


def _why(why: list[Fields]) -> str:
    return '<ul class="why small">' + "".join(f"<li>{_reason(reason)}</li>" for reason in why) + "</ul>" if why else ""


def _reason(reason: Fields) -> str:
    where = f"{reason['table']} {_key(reason['key'])}: " if reason["table"] else ""
    block = reason["block"]
    by = f" (block {block['sequence']:,}, transaction {block['transaction']}, {block['committed_at']})" if block else ""
    return escape(f"{where}{reason['says']}{by}")


def _statement(statement: Fields, why: list[Fields]) -> str:
    before, after = _cells(statement, statement["before"]), _cells(statement, statement["after"])
    changed = [
        reason
        for reason in why
        if "now" in reason and (reason["table"], reason["key"]) == (statement["table"], statement["key"])
    ]
    there = f"<td>{_row(_cells(statement, changed[0]['now']), before, 'ins')}</td>" if changed else "<td></td>"
    what = statement["op"] if statement["table"] else f"{statement['op']} {statement.get('name', '')}"
    unknown = f'<p class="wait">{escape(statement["unknown"])}</p>' if statement["unknown"] else ""
    return (
        f"<tr><td>{escape(statement['table'] or '')}</td><td>{escape(_key(statement['key']))}</td>"
        f"<td>{escape(what)}</td><td>{_row(before, after, 'del')}{unknown}</td>"
        f"<td>{_row(after, before, 'ins')}</td>{there}</tr>"
    )


def _key(key: Row | None) -> str:
    return ", ".join(str(text) for text in (key or {}).values())


def _cells(statement: Fields, row: Row | None) -> Row | None:
    """A row's cells; a document's fields in the place of the document."""
    if row is None or not statement.get("documents"):
        return row
    cells = {name: text for name, text in row.items() if name != "document"}
    try:
        document = json.loads(row["document"] or "", parse_float=str, parse_int=str)
        fields: Row = {
            str(name): text if isinstance(text, str) else json.dumps(text) for name, text in document.items()
        }
    except (ValueError, AttributeError, RecursionError):
        fields = {"document": row["document"]}
    return {**fields, **cells}


def _row(row: Row | None, other: Row | None, mark: str) -> str:
    """A row's cells, line by line; what differs from the other one is marked."""
    if row is None:
        return '<span class="soft">no row</span>'
    lines = []
    for name, text in row.items():
        shown = "null" if text is None else text[:CELL_CHARACTERS]
        cell = escape(shown) + ("…" if len(text or "") > CELL_CHARACTERS else "")
        differs = other is not None and (name not in other or other[name] != text)
        lines.append(f"{escape(name)}: " + (f"<{mark}>{cell}</{mark}>" if differs else cell))
    return "<br>".join(lines)
