"""Writes every generated page, or checks it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from docs.generate import cli, configuration, errors, metrics, states

DOCS = Path(__file__).parent.parent
PAGES: dict[str, Callable[[], str]] = {
    "reference/cli.md": cli.page,
    "reference/configuration.md": configuration.page,
    "reference/errors.md": errors.page,
    "reference/metrics.md": metrics.page,
    "concepts/failover-states.md": states.page,
    "concepts/failover-states.svg": states.picture,
}


def stale() -> list[str]:
    """The pages that are not what their function makes of the source now."""
    return [name for name, make in PAGES.items() if not _is_as_made(DOCS / name, make())]


def _is_as_made(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def main() -> None:
    """Write the pages; with --check, only say which differ."""
    if "--check" in sys.argv:
        if names := stale():
            sys.exit(f"not as the source says: {', '.join(names)}; make docs writes them anew")
        return
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())


if __name__ == "__main__":
    main()
