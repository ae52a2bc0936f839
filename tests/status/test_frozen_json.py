"""The JSON of status is a contract: what programs outside read stays as it is, to the byte and in this order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replicator.status.json import cluster_json, history_json, status_json
from tests.status import samples

FROZEN = json.loads(Path(__file__).with_name("frozen.json").read_text())


@pytest.mark.parametrize("name", list(FROZEN))
def test_the_json_of_a_sample_is_what_it_was(name: str) -> None:
    snapshot = getattr(samples, name)()
    shown = {
        "/v1/status": status_json(snapshot),
        "/cluster": cluster_json(snapshot),
        "/history": history_json(snapshot.history),
    }
    assert json.dumps(shown, indent=1) == json.dumps(FROZEN[name], indent=1)
