"""What the fields of small JSON forms may hold, as types that pydantic checks, and what it found in one line.

Guarantee: nothing is converted but whole numbers to fractional ones: ``"1"`` is no number, and ``true`` is none either.
For reports, orders and small files; rows and blocks have formats of their own.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, Strict, ValidationError

TEXT_LIMIT = 2_000  # characters

Flag = Annotated[bool, Strict()]
Count = Annotated[int, Strict(), Field(ge=0, lt=2**63)]  # what SQLite and PostgreSQL store as an integer
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Text = Annotated[str, Strict(), Field(max_length=TEXT_LIMIT)]


def first_problem(error: ValidationError) -> str:
    """The first field that is wrong, and how. What it held is not quoted: it may be long, or secret."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]
