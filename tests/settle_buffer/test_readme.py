"""The README's example runs and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import settle_buffer

README = (Path(settle_buffer.__file__).parent / "README.md").read_text()


def test_the_example_prints_what_it_says() -> None:
    program, output = re.findall(r"```(?:python)?\n(.*?)```", README, re.DOTALL)[:2]
    run = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout == output


def test_every_event_of_a_gap_is_in_its_table() -> None:
    for name in ("GapOpened", "GapRequest", "GapExpired", "GapFilled", "GapWaived"):
        assert f"`{name}`" in README
        assert hasattr(settle_buffer, name)
