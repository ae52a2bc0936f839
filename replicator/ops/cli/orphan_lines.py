"""Sealed orphans as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.ops.cli.common import Answer

WORDS = {"there": "already there", "clean": "can be re-applied", "conflict": "conflict", "nothing": "changes no row"}
SHOWN_CHARACTERS = 200


def list_lines(answer: Answer) -> Iterator[str]:
    """What is sealed."""
    if not answer["orphans"]:
        yield f"strand {answer['strand']}: no orphans are sealed here"
    for one in answer["orphans"]:
        counts = ", ".join(f"{number:,} {WORDS[verdict]}" for verdict, number in one["counts"].items() if number)
        yield f"{one['orphans']}  {one['blocks']:,} blocks, sealed {one['sealed_at']}: {counts}"
        yield f"  not handled: {one['unhandled']:,}; read {one['directory']}/report.html"


def show_lines(answer: Answer) -> Iterator[str]:
    """One seal's transactions."""
    yield f"{answer['orphans']}  {answer['blocks']:,} blocks behind {answer['fork']}"
    yield f"judged by {answer['judged_at']}; at length: {answer['directory']}/report.html"
    for one in answer["transactions"]:
        users = f", of {', '.join(map(str, one['users'][:3]))}" if one["users"] else ""
        verdict = WORDS[one["judged"]["verdict"]]
        settled = f", settled by {one['settled']['who']}: {one['settled']['why']}" if one["settled"] else ""
        yield f"{one['sequence']:,}  {one['committed_at']}  {one['transaction']}{users}: {verdict}{settled}"
        yield from (f"    {_reason(why)}" for why in one["judged"]["why"])
        yield from (f"    {_statement(told)}" for told in one["statements"][:20])
        if (left := len(one["statements"]) - 20 + one["left_out"]) > 0:
            yield f"    and {left:,} statements more"
    if answer["next"] is not None:
        yield f"There are more: --after {answer['next']}"


def reapply_lines(answer: Answer) -> Iterator[str]:
    """What was, or would be, sent."""
    if not answer["transactions"]:
        yield "nothing here can be re-applied"
    for one in answer["transactions"]:
        yield f"{one['sequence']:,}  {one['transaction']}: {one['outcome']} ({WORDS[one['verdict']]})"
        yield from (f"    {_reason(why)}" for why in one["why"])
        if "refusal" in one:
            yield f"    {one['refusal']['place']}: {one['refusal']['message']}"
    if not answer["applied"] and any(one["outcome"] == "to be sent" for one in answer["transactions"]):
        yield f"Nothing was changed. With --apply they are sent to {answer['primary'] or 'the primary'}."


def settle_lines(answer: Answer) -> Iterator[str]:
    """What was noted."""
    yield f"settled: {', '.join(f'{one:,}' for one in answer['settled']) or 'nothing was open'}"


def _reason(why: Answer) -> str:
    where = f"{why['table']} {_key(why['key'])}: " if why["table"] else ""
    block = why["block"]
    by = f" (block {block['sequence']:,}, {block['transaction']}, {block['committed_at']})" if block else ""
    return f"{where}{why['says']}{by}"


def _statement(told: Answer) -> str:
    if told["key"] is None:
        return f"{told['op']} {told['table'] or told.get('name', '')}"
    return f"{told['op']} {told['table']} {_key(told['key'])}: {_row(told['before'])} -> {_row(told['after'])}"


def _key(key: Answer | None) -> str:
    return ", ".join(str(text) for text in (key or {}).values())


def _row(row: Answer | None) -> str:
    if row is None:
        return "no row"
    text = ", ".join(f"{name}={'null' if value is None else value}" for name, value in row.items())
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
