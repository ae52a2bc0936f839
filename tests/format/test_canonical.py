"""Lines: what PostgreSQL's COPY writes, from row images and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.format.canonical import RowLines, line_of, texts_of
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, Cell

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "lines.json").read_text())

texts = st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1)


@given(texts)
def test_a_line_reads_back(row: list[str | None]) -> None:
    assert texts_of(line_of(row)) == row


@given(texts, texts)
def test_different_rows_have_different_lines(one: list[str | None], other: list[str | None]) -> None:
    assert (line_of(one) == line_of(other)) == (one == other)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["what"])
def test_published_lines(vector: dict[str, Any]) -> None:
    columns = tuple(Column(name, kind, form) for name, kind, form, _ in vector["columns"])
    lines = RowLines(Definition("public", "t", columns, tuple(vector["key"])))
    cells = [None if cell is None else bytes.fromhex(cell) for *_, cell in vector["columns"]]
    line = lines.line(cells)
    assert line == bytes.fromhex(vector["line"])
    assert lines.key_of(line) == bytes.fromhex(vector["key_line"])
    assert texts_of(line) == lines.texts(cells)


def test_a_row_that_is_not_whole_has_no_line() -> None:
    lines = RowLines(Definition("public", "t", (Column("a", "text"), Column("b", "text")), ("a",)))
    rows: list[list[Cell]] = [[b"1", UNCHANGED], [b"1"]]
    for cells in rows:
        with pytest.raises(ValueError, match="unchanged column, or of another number"):
            lines.line(cells)


def test_what_is_no_line_is_refused() -> None:
    with pytest.raises(ValueError, match="an escape that no line has"):
        texts_of(b"a\\x")
