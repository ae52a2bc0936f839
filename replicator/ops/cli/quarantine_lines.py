"""What ``replicator quarantine`` prints of the sidecar's answers, line by line.

Guarantee: an answer that is not as expected raises KeyError, TypeError, ValueError or AttributeError. Nothing here
asks or prints; control characters are the caller's matter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from replicator.status.json_form import time_text

Answer = dict[str, Any]
SHOWN_PLACES = 5


def open_lines(answer: Answer) -> Iterator[str]:
    """What is open, and what to do about it."""
    statements = answer["statements"]
    if not answer["open"]:
        yield f"strand {answer['strand']}: nothing is set aside"
        return
    count = f"{_statements(answer['open'])} {'is' if answer['open'] == 1 else 'are'}"
    keys = "1 key waits" if answer["held_keys"] == 1 else f"{answer['held_keys']:,} keys wait"
    yield f"strand {answer['strand']}: {count} set aside, {keys}"
    for one in statements:
        yield f"  {_line(one)}"
        yield f"    {_message(one)}"
    if (more := answer["open"] - len(statements)) > 0:
        yield f"  and {more:,} more behind these"
    yield "What to do: cure what they were refused for, then replicator quarantine replay"


def closed_lines(answer: Answer) -> Iterator[str]:
    """What was closed, and how."""
    if not answer["statements"]:
        yield f"strand {answer['strand']}: nothing that was set aside has been closed"
    for one in answer["statements"]:
        yield _line(one)
        yield f"  {time_text(one['closed_at'])}  {one['outcome']} by {one['closed_by']}: {one['closed_why']}"


def statement_lines(answer: Answer) -> Iterator[str]:
    """One statement, with its block and its row."""
    one, block = answer["statement"], answer["block"]
    yield _line(one)
    yield f"  set aside {time_text(one['set_aside_at'])}: {_message(one)}"
    if one["outcome"]:
        yield f"  {one['outcome']} {time_text(one['closed_at'])} by {one['closed_by']}: {one['closed_why']}"
    if block is None:
        yield "  its block is not in the journal any more"
    else:
        yield f"  block {block['sequence']:,}, epoch {block['epoch']:d}, {block['statements']:,} statements"
        yield f"    transaction {block['txid']}, committed {time_text(block['committed_at'])}"
        yield f"    hash {block['hash']}"
    if answer["row"] is not None:
        yield "  row"
        for name, text in answer["row"].items():
            yield f"    {name} = {'NULL' if text is None else text}"
    if "unreadable" in answer:
        yield f"  its row cannot be read: {answer['unreadable']}"
        yield f"    {answer['image']}"


def tried_lines(answer: Answer) -> Iterator[str]:
    """What was tried, and how it went."""
    groups = answer["groups"]
    refused = [group for group in groups if group["outcome"] == "refused"]
    for group in groups:
        yield _group_line(group, for_good=answer["applied"])
    done = sum(len(group["places"]) for group in groups if group["outcome"] != "refused")
    if not groups:
        yield f"strand {answer['strand']}: nothing is set aside"
    elif answer["applied"]:
        yield f"replayed: {_statements(done)}; {len(refused):,} of {len(groups):,} groups of keys stay set aside"
    else:
        yield f"dry run, nothing was changed: {_statements(done)} would be replayed, with --apply"


def _group_line(group: Answer, *, for_good: bool) -> str:
    places = ", ".join(f"{sequence}/{ordinal}" for sequence, ordinal in group["places"][:SHOWN_PLACES])
    if (more := len(group["places"]) - SHOWN_PLACES) > 0:
        places += f" and {more:,} more"
    keys = " ".join(_key(key) for key in group["keys"][:SHOWN_PLACES]) or "no key"
    what = f"{group['table']} {keys}: {_statements(len(group['places']))} ({places})"
    if group["outcome"] == "refused":
        return f"  refused: {what}: {_message(group)}"
    return f"  {'replayed' if for_good else 'would be replayed'}: {what}"


def _line(one: Answer) -> str:
    key = "" if one["key"] is None else f" {_key(one['key'])}"
    before = "" if one["key_before"] is None else f", key before {_key(one['key_before'])}"
    place = f"sequence {one['sequence']:,}, ordinal {one['ordinal']:,}"
    return f"{place}  {one['op']} {one['table']}{key}{before}  (transaction {one['txid']})"


def _statements(count: int) -> str:
    return "1 statement" if count == 1 else f"{count:,} statements"


def _message(one: Answer) -> str:
    return f"{' '.join(one['message'].split())} [{one['reason']}]"


def _key(key: list[str]) -> str:
    """As ``--key`` takes it."""
    return key[0] if len(key) == 1 and not key[0].startswith("[") else json.dumps(key, ensure_ascii=False)
