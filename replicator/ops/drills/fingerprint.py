"""A configuration's fingerprint, and a plan for the report: neither holds a secret.

Two configurations have one fingerprint if they say the same, whatever the order of keys, comments and defaults that are
written out. Secrets count as being there, not by their value.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from replicator.config.units import Secret


def fingerprint(model: BaseModel) -> str:
    """SHA-256 over the canonical JSON of the model, in hex."""
    text = json.dumps(shown(model.model_dump(mode="python")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def shown(value: Any) -> Any:
    """The value as JSON has it, with secrets masked."""
    match value:
        case Secret():
            return "***"
        case BaseModel():
            return shown(value.model_dump(mode="python"))
        case dict():
            return {str(key): shown(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [shown(one) for one in value]
        case Path():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
