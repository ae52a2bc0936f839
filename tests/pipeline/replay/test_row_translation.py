"""A row of an older definition, as the row that it would be had it been there when the definition changed."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import pytest

from replicator.errors import Halted
from replicator.format.definition import Column, Definition
from replicator.format.row import UNCHANGED, pack_row, unpack_row
from replicator.format.statement import (
    pack_delete,
    pack_insert,
    pack_patch,
    pack_truncate,
    pack_update,
    unpack_statements,
)
from replicator.pipeline.replay.row_translation import RowTranslation, shown

OLD = Definition(
    "public",
    "wallets",
    (
        Column("id", "integer", "binary", False, 1),
        Column("goes", "text", "binary", True, 2),
        Column("owner", "text", "binary", True, 3),
        Column("balance", "numeric(10,2)", "text", True, 4),
    ),
    ("id",),
)
NEW = Definition(
    "public",
    "wallets",
    (
        Column("wallet", "bigint", "binary", False, 1),
        Column("balance", "numeric(12,2)", "binary", True, 4),
        Column("holder", "text", "binary", True, 3),
        Column("note", "text", "binary", False, 5, missing="none"),
        Column("maybe", "integer", "binary", True, 6),
    ),
    ("wallet",),
)
ID = struct.pack(">i", 7)
ROW = pack_row([ID, b"gone", b"ann", b"1.50"])
KEY = pack_row([ID])


def translated(packed: bytes) -> list[Any]:
    (one,) = unpack_statements(packed)
    return RowTranslation(OLD, NEW).statement(one, -1)


def test_columns_go_come_move_and_change_their_type_and_name() -> None:
    op, relation, image = translated(pack_insert(1, ROW))
    assert (op, relation) == (1, -1)
    assert unpack_row(image) == [b"7", b"1.50", b"ann", b"none", None]


def test_all_columns_of_the_translated_definition_are_text() -> None:
    definition = RowTranslation(OLD, NEW).definition
    assert {column.format for column in definition.columns} == {"text"}
    assert dataclasses.replace(definition, columns=NEW.columns) == NEW
    assert [column.type for column in definition.columns] == [column.type for column in NEW.columns]


def test_updates_patches_and_deletes_keep_their_shape() -> None:
    assert translated(pack_update(1, ROW, KEY))[3] == pack_row([b"7"])
    assert translated(pack_update(1, ROW))[3] is None
    patch = translated(pack_patch(1, pack_row([ID, UNCHANGED, UNCHANGED, None]), KEY))
    assert unpack_row(patch[2]) == [b"7", None, UNCHANGED, b"none", None]
    assert translated(pack_delete(1, KEY)) == [4, -1, pack_row([b"7"])]
    assert translated(pack_truncate(1)) == [5, -1]


def test_what_replicas_cannot_follow_is_not_translated() -> None:
    with pytest.raises(Halted) as caught:
        RowTranslation(OLD, dataclasses.replace(NEW, key=("holder",)))
    assert caught.value.reason == "key_changed"


def test_an_image_that_cannot_be_read_raises() -> None:
    with pytest.raises(ValueError, match=r"shorter|argument"):
        translated(pack_insert(1, pack_row([ID])))


def test_a_row_for_people_leaves_out_what_is_unchanged() -> None:
    assert shown(OLD, pack_row([ID, None, UNCHANGED, b"1.50"])) == {"id": "7", "goes": None, "balance": "1.50"}
