"""The command line: one file per verb, read only when the verb is used.

Exit codes, a contract: 0 it is as asked · 1 it is not (not ready, not reachable, failed) · 2 the usage or the
configuration is wrong, with the place and the cure · 130 it was interrupted. A verb may define further ones in its
``--help``.

To add a verb: a line in ``VERBS`` and a module of that name here with a click command called ``command``. Its module
imports what is heavy inside the command, so that its ``--help`` stays quick. A ReplicatorError that a verb raises is
printed with its place and cure, never as a traceback.

Beside the verbs: ``client`` (asks a running sidecar), ``common`` (options, how an answer is shown), ``cluster`` (who
leads, what happens while one waits), ``comparison`` (a region with its primary), ``point_in_time`` (part of resync).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import click

from replicator import __version__
from replicator.errors import ConfigError, ReplicatorError
from replicator.ops.interrupts import raise_at_interrupts
from replicator.ops.terminal import printable

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130  # the last as shells have it

# In the order in which people need them.
VERBS: dict[str, str] = {
    "demo": "Three regions on this machine, real traffic, a failover and back, and the proof that all ends equal.",
    "preflight": "Checks everything that run will need, changes nothing, names each problem and its cure.",
    "run": "The sidecar of a region, until it is told to stop.",
    "status": "How the running sidecar of a region is, and what holds it up.",
    "verify": "Compares replica regions with their primary, row for row, at one position.",
    "repair": "Sets keys of a replica that differ to what the journal says; shows them first.",
    "resync": "Rewrites all that was touched since a time, or builds a copy as of a moment.",
    "recopy": "Copies tables of a PostgreSQL primary anew, where the log does not tell what became of them.",
    "rebuild": "Makes again what a region derives from its journal: a file is damaged or in doubt.",
    "gaps": "What is missing: lists and explains gaps, shows how they were closed, waives.",
    "regions": "Who follows a region and what its journal is kept for; forgets one that is gone.",
    "bootstrap": "Makes a region anew from a consistent copy of another one.",
    "journal": "Looks after a region's journal: verify walks its chain, compact gives disk back.",
    "quarantine": "What a replica refused and is set aside: lists, shows, replays once cured, drops.",
    "orphans": "Blocks that only this region had: lists, shows, re-applies what is clean, settles.",
    "switchover": "Moves the primary to another region, planned: drained, verified, and back if it cannot be done.",
    "failover": "Makes a region the primary after the old one is lost; shows before what it would mean.",
    "pause": "Lets a region follow and take no part in elections; resume ends it.",
    "resume": "Lets a paused region take part again.",
    "rejoin": "Lets a former primary, whose orphans are sealed, come back as a replica.",
    "drill": "Rehearses failures and changes of the primary, and measures them.",
    "history": "The starts and changes of role that a region knows of.",
}


class _Failure(click.ClickException):
    """A ReplicatorError as the command line shows it."""

    exit_code = FAILED

    def __init__(self, error: ReplicatorError) -> None:
        place = f"{error.place}: " if error.place else ""
        cure = f"\nCure: {error.cure}" if error.cure else ""
        super().__init__(printable(f"{place}{error.message} [{error.reason}]{cure}"))


class _ConfigFailure(_Failure):
    """A ConfigError as the command line shows it."""

    exit_code = WRONG_USAGE


class _VerbGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"replicator.ops.cli.{cmd_name}").command
        raise_at_interrupts()  # from here on there is something that may have to be put in order
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        if args and args[0] not in VERBS and (near := difflib.get_close_matches(args[0], VERBS, 1)):
            raise click.UsageError(f"No such verb {args[0]!r}. Did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise _ConfigFailure(error) from error
        except ReplicatorError as error:
            raise _Failure(error) from error
        except KeyboardInterrupt:  # click would say that it was aborted, and failed
            ctx.exit(INTERRUPTED)
        except BaseExceptionGroup as group:  # of a nursery
            if group.subgroup(KeyboardInterrupt) is None:
                raise
            ctx.exit(INTERRUPTED)


def example(*lines: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a verb's ``--help`` its examples: put this right under the command decorator."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        shown = "\n".join(f"  {line}" for line in lines)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nExample:\n{shown}\n"
        return function

    return add


@click.group(cls=_VerbGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="replicator")
def main() -> None:
    """Replicates a ledger to other regions, and proves that they are equal.

    Each verb has --help with an example. Exit codes: 0 as asked, 1 not so or failed, 2 wrong usage or configuration,
    130 interrupted.
    """
