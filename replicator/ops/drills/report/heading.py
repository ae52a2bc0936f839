"""What a report says of the drill itself: when, by which plan, on which configuration and versions.

Guarantee: neither the plan nor the fingerprint of the configuration holds a secret. Two configurations have one
fingerprint if they say the same, whatever the order of keys, comments and defaults that are written out. Secrets count
as being there, not by their value.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from replicator.config.units import Secret
from replicator.ops.drills.rules.plan import DrillPlan


@dataclasses.dataclass(frozen=True, slots=True)
class DrillHeading:
    """The drill's identity. ``plan`` is masked, ``began`` RFC 3339, ``fingerprint`` empty without a configuration."""

    id: str
    plan: dict[str, Any]
    fingerprint: str
    versions: dict[str, str]
    began: str

    def fields(self, plan: DrillPlan) -> dict[str, Any]:
        """The fields of a ``DrillReport`` that every drill has, however it was carried out."""
        return {
            "id": self.id,
            "kind": plan.kind,
            "name": plan.title,
            "began": self.began,
            "plan": self.plan,
            "config_fingerprint": self.fingerprint,
            "versions": self.versions,
        }


def fingerprint(model: BaseModel) -> str:
    """SHA-256 over the canonical JSON of the model, in hex."""
    text = json.dumps(masked(model.model_dump(mode="python")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def masked(value: Any) -> Any:
    """The value as JSON has it, with secrets masked."""
    match value:
        case Secret():
            return "***"
        case BaseModel():
            return masked(value.model_dump(mode="python"))
        case dict():
            return {str(key): masked(part) for key, part in value.items()}
        case list() | tuple() | set() | frozenset():
            return [masked(part) for part in value]
        case Path():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)
