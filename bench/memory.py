"""The most memory that each sidecar takes while one transaction of a million rows passes.

python -m bench.memory [ROWS]
"""

from __future__ import annotations

import functools
import sys

from bench.setting import directory, print_table, resident_bytes, running, seconds_until, server
from tests.e2e.sidecars import Sidecar, sequence

MEGABYTE = 1_000_000


def has_second_block(region: Sidecar) -> bool:
    return sequence(region.status() or NOTHING, "applied") >= 2


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with directory() as home, server(home / "primary") as primary, server(home / "replica") as replica:
        dsn, copy = primary.create_database("ledger"), replica.create_database("ledger")
        with primary.connect("ledger") as connection:
            connection.execute("CREATE TABLE event (id bigint PRIMARY KEY, user_id text, amount numeric, note text)")
        source = Sidecar(home, "primary", "primary", f'[source]\nkind = "postgres"\ndsn = "{dsn}"\n')
        follow = f'[follow]\nprimary = "{source.url}"\n\n'
        postgres = Sidecar(home, "to-postgres", "replica", f'{follow}[replica]\nkind = "postgres"\ndsn = "{copy}"\n')
        sqlite = Sidecar(home, "to-sqlite", "replica", f'{follow}[replica]\nkind = "sqlite"\npath = "ledger.db"\n')
        regions = [source, postgres, sqlite]
        with running(*regions):
            for region in (postgres, sqlite):
                region.reach(lambda status: sequence(status, "applied") >= 1, "the copy")
            before = [resident_bytes(region.process.pid) for region in regions if region.process]
            with primary.connect("ledger") as connection:
                connection.execute(
                    f"INSERT INTO event SELECT n, 'user-' || n % 1000, n / 7.0, repeat('x', 100) "
                    f"FROM generate_series(1, {rows}) n".encode()
                )
            took = [seconds_until(functools.partial(has_second_block, region)) for region in (postgres, sqlite)]
            after = [resident_bytes(region.process.pid) for region in regions if region.process]
        print_table(
            f"one transaction of {rows:,} rows",
            ["sidecar", "before, MB", "most, MB", "applied after, s"],
            [
                (region.name, f"{idle / MEGABYTE:.0f}", f"{most / MEGABYTE:.0f}", seconds)
                for region, idle, most, seconds in zip(
                    regions, before, after, ["-", f"{took[0]:.1f}", f"{sum(took):.1f}"], strict=True
                )
            ],
        )


NOTHING = {"strands": [{"marks": {"applied": 0}}]}

if __name__ == "__main__":
    main()
