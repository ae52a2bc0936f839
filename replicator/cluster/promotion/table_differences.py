"""What keeps a region's tables from being the ledger's own: each difference that would halt or mislead its source.

Guarantee: a database without differences goes on with the ledger's definitions, or with ones that every region can
follow. What no definition has (checks, foreign keys, secondary indexes, defaults) is not looked at. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.format.definition import Definition
from replicator.format.evolution import widens
from replicator.pipeline.replicas.postgres.rows import PLACE_COLUMNS
from replicator.postgres.catalog import TableFacts, TableName
from replicator.postgres.quoting import quoted


def differences(
    definitions: Mapping[TableName, Definition], tables: Mapping[TableName, TableFacts], *, generated: bool
) -> list[str]:
    """One text for each table that differs. ``generated``: whether generated columns would be published."""
    texts = []
    for name, definition in sorted(definitions.items()):
        facts = tables.get(name)
        problems = ["it is not in the database"] if facts is None else _problems(definition, facts, generated)
        if problems:
            texts.append(f"table {definition.label}: {'; '.join(problems)}")
    return texts


def _problems(definition: Definition, facts: TableFacts, generated: bool) -> list[str]:
    here = {a.name: a for a in facts.attributes if not a.dropped}
    ours = () if definition.key else PLACE_COLUMNS
    problems = []
    for column in definition.columns:
        attribute = here.get(column.name)
        if attribute is None:
            problems.append(f"column {column.name} is missing")
        elif not widens(column.type, attribute.type):
            problems.append(f"column {column.name} is {attribute.type} here and {column.type} in the ledger")
        elif attribute.generated and not generated:
            problems.append(
                f"column {column.name} is generated here, and would not be published; in every region run:"
                f" ALTER TABLE {quoted(*definition.name)} ALTER COLUMN {quoted(column.name)} DROP EXPRESSION"
            )
    names = {column.name for column in definition.columns}
    others = [a.name for a in here.values() if a.name not in {*names, *ours} and not a.generated]
    problems += [f"column {name} is not the ledger's" for name in others]
    primary = () if facts.key_deferrable else facts.key
    key = facts.identity_key if facts.identity == "i" else primary
    if key not in (definition.key, ours):
        problems.append(f"its key is {', '.join(key) or 'none'} here and {', '.join(definition.key)} in the ledger")
    return problems
