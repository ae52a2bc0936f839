"""What the verbs share that ask a running sidecar on behalf of an operator: their options, and how an answer is shown.

Guarantee: an answer that is not what was expected is an error that names the sidecar, never a traceback; what comes
from elsewhere is printed without control characters.
"""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from replicator.ops.terminal import printable

if TYPE_CHECKING:
    from replicator.config import Config
    from replicator.transport.endpoint import Endpoint

Answer = dict[str, Any]


class ListsByDefault(click.Group):
    """``replicator gaps CONFIG`` is ``replicator gaps list CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def connection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options ``url``, ``ca`` and ``as_json`` of a verb that asks a sidecar."""
    function = click.option("--json", "as_json", is_flag=True, help="The sidecar's answer as it is.")(function)
    function = click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM.")(function)
    return click.option("--url", help="The sidecar's address, instead of the one in CONFIG.")(function)


def sidecar_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a verb that takes ``sidecar``, the address that CONFIG and these options come to."""

    @functools.wraps(function)
    def resolved(config: Path | None, url: str | None, ca: Path | None, **others: Any) -> Any:
        from replicator.ops.cli.client import sidecar_endpoint

        return function(sidecar=sidecar_endpoint(config, url, ca), **others)

    return connection_options(resolved)


def reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says why an order is given."""
    return click.option("--reason", default="", help="Why; it is kept in the history, with who says so.")(function)


@contextlib.contextmanager
def readable(sidecar: Endpoint) -> Iterator[None]:
    """For reading an answer of the sidecar: what another form of it raises is an error that names the sidecar."""
    from replicator.ops.cli.client import unreadable

    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise unreadable(sidecar.url, error) from error


def show_answer(sidecar: Endpoint, answer: Answer, lines: Callable[[Answer], Iterable[str]], *, as_json: bool) -> None:
    """Print the answer, as it is or line by line. ``lines`` may raise what an answer of another form makes it raise."""
    with readable(sidecar):  # all of it before the first line is printed: half an answer would look like a whole one
        shown = [json.dumps(answer, indent=2)] if as_json else [printable(line) for line in lines(answer)]
    for line in shown:
        click.echo(line)


def get_and_show(sidecar: Endpoint, path: str, lines: Callable[[Answer], Iterable[str]], *, as_json: bool) -> None:
    """Print what the sidecar answers to GET ``path``."""
    from replicator.ops.cli.client import get_object

    show_answer(sidecar, get_object(sidecar, path), lines, as_json=as_json)


def post_and_confirm(sidecar: Endpoint, path: str, fields: Answer, done: str, *, as_json: bool) -> None:
    """Have the sidecar do something, and print ``done``, or its answer."""
    from replicator.ops.cli.client import post

    answer = post(sidecar, path, fields)
    click.echo(json.dumps(answer, indent=2) if as_json else printable(done))


def exit_with(code: int, content: Any, lines: Iterable[str], *, as_json: bool) -> NoReturn:
    """Print the content as JSON or else the lines, and end with this exit code."""
    if as_json:
        click.echo(json.dumps(content, indent=2))
    else:
        for line in lines:
            click.echo(printable(line))
    sys.exit(code)


def give_order(sidecar: Endpoint, verb: str, done: str, reason: str, *, as_json: bool, **more: object) -> None:
    """Give a region of a cluster an order that is carried out at once, and say so."""
    from replicator.ops.cli.client import post

    answer = post(sidecar, "/v1/failover/orders", {"verb": verb, "reason": signed(reason), **more})
    click.echo(json.dumps(answer) if as_json else done)


def signed(reason: str) -> str:
    """Why an order is given, and by whom; the history keeps it."""
    return f"{reason.strip()}, by {user_name()}" if reason.strip() else f"by {user_name()}"


def user_name() -> str:
    """Who is at the command line, as user@machine. Raises UsageError where that is not known."""
    import getpass
    import socket

    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError) as error:
        raise click.UsageError("who you are is not known here: give --who") from error


def existing_journal(config: Config) -> Path:
    """The path of the region's journal. Raises ConfigError if it has none yet."""
    from replicator.errors import ConfigError

    path = config.region.files.journal
    if not path.exists():
        cure = "name the configuration of a region that has run"
        raise ConfigError("no_journal", "there is no journal", place=str(path), cure=cure)
    return path
