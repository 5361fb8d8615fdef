"""Where `midge` starts: parse, call, and turn whatever goes wrong into one message and one exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from midge import __version__
from midge.cli import exits
from midge.cli.failure import decisive, show
from midge.cli.lazy import Group
from midge.cli.output import silence_stdout
from midge.cli.session import Session
from midge.cli.tree import TABLE
from midge.sys.streams import ensure_standard_streams

HELP = """Boot OCI images as fast virtual machines on hardware you own.

\b
  midge serve                        start a server here
  midge machine run debian echo hi   run a command in a new machine
  midge doctor                       see what this host can do
"""


class Root(Group):
    """The command `midge`. Errors are shown by us, not by click."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **options: Any) -> NoReturn:
        arguments = list(sys.argv[1:] if args is None else args)
        session: Session = options.get("obj") or Session(env=options.get("env"))
        sys.exit(self._run(arguments, session, complete_var=options.get("complete_var")))

    def _run(self, arguments: list[str], session: Session, *, complete_var: str | None) -> int:
        self._main_shell_completion({}, "midge", complete_var)
        context: list[click.Context] = []
        try:
            with self.make_context("midge", arguments, obj=session) as ctx:
                context.append(ctx)
                self.invoke(ctx)
            return exits.OK
        except click.exceptions.Exit as end:
            return end.exit_code
        except KeyboardInterrupt as interrupt:
            session.out.error_line("" if session.out.style.json else "interrupted")
            return exits.of(interrupt)
        except BrokenPipeError:
            silence_stdout()
            return exits.OK
        except click.ClickException as error:
            # The options may not have been parsed when this went wrong.
            session.apply({"json": _wants_json(arguments)})
            return _usage_error(error, session)
        except Exception as error:  # the one place where nothing may escape
            return _report(error, session, remote=bool(context and context[0].meta.get("midge.remote")))
        finally:
            session.close()


def _report(error: Exception, session: Session, *, remote: bool) -> int:
    error = alone(error)
    exit_code = exits.of(decisive(error), remote=remote)
    show(error, exit_code, session.out)
    return exit_code


def alone(error: Exception) -> Exception:
    """What a task group raises says nothing; the error inside does, when there is one only."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _usage_error(error: click.ClickException, session: Session) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        session.out.error_line(error.format_message())
    else:
        show(_usage(error), exits.USAGE, session.out)
    return exits.USAGE


def _usage(error: click.ClickException) -> exits.UsageFailure:
    message = error.message if isinstance(error, click.NoSuchCommand) else error.format_message()
    message = message[:1].lower() + message[1:].rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see `{context.command_path} --help`" if context is not None else ""
    if isinstance(error, click.NoSuchCommand) and error.possibilities and context is not None:
        hint = " or ".join(f"`{context.command_path} {name}`" for name in error.possibilities)
        hint = f"did you mean {hint}?"
    return exits.UsageFailure(message, hint=hint)


def _wants_json(arguments: Sequence[str]) -> bool:
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own or "-j" in own


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.find_root().obj.out.line(f"midge {__version__}")
        ctx.exit()


root = Root(
    "midge",
    TABLE,
    help=HELP,
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_version,
            help="Print the version of this program.",
        )
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main() -> NoReturn:
    """The console script."""
    ensure_standard_streams()
    root.main()


if __name__ == "__main__":
    main()
