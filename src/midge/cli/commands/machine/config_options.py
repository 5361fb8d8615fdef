"""The options that make a machine's configuration, and the pure function that applies them."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from midge.cli.exits import UsageFailure
from midge.cli.options import Memory

Json = dict[str, Any]
F = TypeVar("F", bound=Callable[..., Any])

RESTART_POLICIES = ("no", "always", "on-failure")
AUTOSTOP = ("off", "stop", "suspend")

# Of one file put into a machine, in bytes; the API takes 16 MiB for the whole configuration in base64.
FILE_MAX_BYTES = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigOptions:
    """What was given. None and empty: not given, which an update leaves as it is."""

    env: tuple[str, ...] = ()
    files_local: tuple[str, ...] = ()
    files_literal: tuple[str, ...] = ()
    entrypoint: str = ""
    cpus: int | None = None
    cpu_kind: str | None = None
    memory: int | None = None
    restart: str | None = None
    ports: tuple[str, ...] = ()
    autostop: str | None = None
    autostart: bool | None = None
    metadata: tuple[str, ...] = ()
    user: str = ""
    tty: bool = False
    config: str = ""


_OPTIONS = (
    click.option(
        "-e",
        "--env",
        "env",
        multiple=True,
        metavar="NAME=VALUE",
        help="Environment; NAME alone passes yours on.",
    ),
    click.option(
        "--file-local",
        "files_local",
        multiple=True,
        metavar="GUEST=LOCAL",
        help="Put a local file into the machine.",
    ),
    click.option(
        "--file-literal",
        "files_literal",
        multiple=True,
        metavar="GUEST=TEXT",
        help="Put a text into the machine as a file.",
    ),
    click.option(
        "--entrypoint", default="", metavar="COMMAND", help="In place of the image's, split as a shell would."
    ),
    click.option(
        "--cpus", "--vm-cpus", "cpus", type=click.IntRange(min=1), default=None, help="Number of CPUs."
    ),
    click.option(
        "--cpu-kind",
        "--vm-cpu-kind",
        "cpu_kind",
        type=click.Choice(["shared", "performance"]),
        default=None,
        help="Kind of CPUs.",
    ),
    click.option(
        "--memory",
        "--vm-memory",
        "memory",
        type=Memory(),
        default=None,
        metavar="SIZE",
        help="Memory: 512 (MiB), 512mb, 2gb.",
    ),
    click.option(
        "--restart", type=click.Choice(RESTART_POLICIES), default=None, help="When its process ends."
    ),
    click.option(
        "-p",
        "--port",
        "ports",
        multiple=True,
        metavar="PORT[:INTERNAL][/tcp|/udp|/HANDLER...]",
        help="Publish a port: 80:8080/http, 443:8080/tls/http, 5432.",
    ),
    click.option(
        "--autostop", type=click.Choice(AUTOSTOP), default=None, help="What to do with it when nobody calls."
    ),
    click.option("--autostart/--no-autostart", default=None, help="Start it when somebody calls."),
    click.option(
        "-m",
        "--metadata",
        "metadata",
        multiple=True,
        metavar="KEY=VALUE",
        help="Metadata; an empty VALUE removes it.",
    ),
    click.option("--user", default="", metavar="USER[:GROUP]", help="In place of the image's."),
    click.option("-t", "--tty", is_flag=True, help="Give its process a terminal."),
    click.option(
        "--config",
        "--machine-config",
        "config",
        default="",
        metavar="FILE|JSON",
        help="A configuration to start from; `-` reads it from stdin.",
    ),
)


def config_options(function: F) -> F:
    """Adds the options; the function gets them as one `ConfigOptions` named `options`."""

    # Also carries over the parameters that decorators below this one have left on the function.
    @functools.wraps(function)
    def collect(*args: Any, **kwargs: Any) -> Any:
        own = {name: kwargs.pop(name) for name in ConfigOptions.__slots__ if name in kwargs}
        return function(*args, options=ConfigOptions(**own), **kwargs)

    decorated: Any = collect
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]  # the decorated function stands in for the one given


def read_config(given: str, stdin: Callable[[], str]) -> Json:
    """`--config`: JSON itself, ``-`` for stdin, or a file's name. Accepts a machine object and takes its `config`."""
    if not given:
        return {}
    if given.lstrip().startswith("{"):
        text, source = given, "--config"
    elif given == "-":
        text, source = stdin(), "stdin"
    else:
        try:
            text, source = Path(given).read_text("utf-8"), given
        except (OSError, UnicodeDecodeError) as error:
            raise UsageFailure(f"cannot read the configuration {given}") from error
    try:
        decoded = json.loads(text)
    except ValueError as error:
        raise UsageFailure(f"the configuration from {source} is not JSON") from error
    if not isinstance(decoded, dict):
        raise UsageFailure(f"the configuration from {source} is not a JSON object")
    inner = decoded.get("config")
    return inner if isinstance(inner, dict) else decoded


def apply(base: Json, options: ConfigOptions, environment: Callable[[str], str | None]) -> Json:
    """`base` with the options on top; `base` is not changed.

    Args:
        environment: looks up the caller's own variables, for ``-e NAME``.

    Raises:
        UsageFailure: an option makes no sense.
    """
    config: Json = json.loads(json.dumps(base))
    if options.env:
        config.setdefault("env", {}).update(_environment(options.env, environment))
    _apply_files(config, options)
    guest = {
        name: value
        for name, value in (
            ("cpu_kind", options.cpu_kind),
            ("cpus", options.cpus),
            ("memory_mb", options.memory),
        )
        if value is not None
    }
    if guest:
        config.setdefault("guest", {}).update(guest)
    init = config.setdefault("init", {})
    if options.entrypoint:
        init["entrypoint"] = split(options.entrypoint, "--entrypoint")
    if options.user:
        init["user"] = options.user
    if options.tty:
        init["tty"] = True
    if options.restart:
        config["restart"] = {"policy": options.restart}
    _apply_metadata(config, options.metadata)
    _apply_services(config, options)
    return config


def split(command: str, where: str) -> list[str]:
    import shlex

    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageFailure(
            f"{where}: {command!r} cannot be split into words", hint="close the quote"
        ) from error


def _environment(given: tuple[str, ...], environment: Callable[[str], str | None]) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not name:
            raise UsageFailure(f"--env {item!r} has no name", hint="write it as NAME=VALUE")
        if equals:
            found[name] = value
        elif (own := environment(name)) is not None:
            found[name] = own
    return found


def _apply_files(config: Json, options: ConfigOptions) -> None:
    new = [_file(guest, _read(local)) for guest, local in _pairs(options.files_local, "--file-local")]
    new += [_file(guest, text.encode()) for guest, text in _pairs(options.files_literal, "--file-literal")]
    if new:
        replaced = {file["guest_path"] for file in new}
        kept = [file for file in config.get("files") or [] if file.get("guest_path") not in replaced]
        config["files"] = kept + new


def _file(guest_path: str, data: bytes) -> Json:
    if not guest_path.startswith("/"):
        raise UsageFailure(f"{guest_path!r} is not an absolute path", hint="write it as /etc/app.conf=…")
    return {"guest_path": guest_path, "raw_value": base64.b64encode(data).decode()}


def _read(local: str) -> bytes:
    try:
        with Path(local).open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise UsageFailure(f"--file-local: cannot read {local}") from error
    if len(data) > FILE_MAX_BYTES:
        raise UsageFailure(
            f"--file-local: {local} has more than {FILE_MAX_BYTES} bytes", hint="put it into the image"
        )
    return data


def _apply_metadata(config: Json, given: tuple[str, ...]) -> None:
    for key, value in _pairs(given, "--metadata"):
        metadata = config.setdefault("metadata", {})
        if value:
            metadata[key] = value
        else:
            metadata.pop(key, None)


def _apply_services(config: Json, options: ConfigOptions) -> None:
    if options.ports:
        config["services"] = [service(port) for port in options.ports]
    for each in config.get("services") or []:
        if options.autostop is not None:
            each["autostop"] = options.autostop
        if options.autostart is not None:
            each["autostart"] = options.autostart
    if (options.autostop is not None or options.autostart is not None) and not config.get("services"):
        raise UsageFailure("--autostop and --autostart need a published port", hint="add --port 80:8080/http")


def service(given: str) -> Json:
    """``443:8080/tls/http``: the service it describes; the internal port is the outer one when left out."""
    ports, *rest = given.split("/")
    outer, colon, inner = ports.partition(":")
    if not outer.isdigit() or (colon and not inner.isdigit()):
        raise UsageFailure(f"--port {given!r} is no port", hint="write it as 80:8080/http or 5432")
    protocol = "udp" if "udp" in rest else "tcp"
    handlers = [word for word in rest if word not in ("tcp", "udp")]
    port: Json = {"port": int(outer)} | ({"handlers": handlers} if handlers else {})
    return {"protocol": protocol, "internal_port": int(inner or outer), "ports": [port]}


def _pairs(given: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    pairs = []
    for item in given:
        key, equals, value = item.partition("=")
        if not (key and equals):
            raise UsageFailure(f"{option} {item!r} has no `=`", hint="write it as NAME=VALUE")
        pairs.append((key, value))
    return pairs
