"""What the verbs share that ask a running sidecar on behalf of an operator: whom to ask, who asks, how it is shown.

Guarantee: an answer that is not what was expected is told as such, never as a traceback; what comes from elsewhere is
printed without control characters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicator.ops.cli import printable

if TYPE_CHECKING:
    from replicator.transport.endpoint import Endpoint

Answer = dict[str, Any]


class ListsByDefault(click.Group):
    """``replicator gaps CONFIG`` is ``replicator gaps list CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def whom_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say whom to ask."""
    function = click.option("--json", "as_json", is_flag=True, help="The sidecar's answer as it is.")(function)
    function = click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM.")(function)
    return click.option("--url", help="The sidecar's address, instead of the one in CONFIG.")(function)


def get(sidecar: Endpoint, path: str) -> Answer:
    """The JSON object that the sidecar answers."""
    from replicator.ops.cli.client import ask, unreadable

    answer = ask(sidecar, path)
    if not isinstance(answer, dict):
        raise unreadable(sidecar.url, TypeError("not an object"))
    return answer


def show_answer(sidecar: Endpoint, answer: Answer, as_json: bool, lines: Callable[[Answer], Iterator[str]]) -> None:
    """Print the answer, as it is or line by line."""
    from replicator.ops.cli.client import unreadable

    try:
        shown = [json.dumps(answer, indent=2)] if as_json else [printable(line) for line in lines(answer)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unreadable(sidecar.url, error) from error
    for line in shown:
        click.echo(line)


def give_order(
    config: Path | None, url: str | None, ca: Path | None, verb: str, done: str, reason: str, *, as_json: bool
) -> None:
    """Give a region of a cluster an order that is carried out at once, and say so."""
    from replicator.ops.cli.client import sidecar, tell

    answer = tell(sidecar(config, url, ca), "/v1/failover/orders", {"verb": verb, "reason": said(reason)})
    click.echo(json.dumps(answer) if as_json else done)


def said(reason: str) -> str:
    """Why an order is given, and by whom; the history keeps it."""
    return f"{reason.strip()}, by {user()}" if reason.strip() else f"by {user()}"


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says why."""
    return click.option("--reason", default="", help="Why; it is kept in the history, with who says so.")(function)


def user() -> str:
    """Who is at the command line."""
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError) as error:
        raise click.UsageError("who you are is not known here: give --who") from error
