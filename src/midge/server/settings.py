"""Settings of `midge serve`: flag, then environment, then file, then default.

One struct says it all: its members are the keys of the file, the flags (``--drain-timeout-s``) and the variables
(``MIDGE_DRAIN_TIMEOUT_S``); the descriptions make the example file.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from midge.errors import InvalidInput
from midge.net import resolver

SYSTEM_DATA_DIR = "/var/lib/midge"
LOCAL_DATA_DIR = ".midge"
ENV_PREFIX = "MIDGE_"
_LOOPBACK = ("localhost", "::1")

Driver = Literal["auto", "firecracker", "qemu", "container", "mock"]


class Settings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a server is told."""

    data_dir: Annotated[
        str,
        Meta(
            description=f"All state. Empty: {SYSTEM_DATA_DIR} for root, else {LOCAL_DATA_DIR} where you are."
        ),
    ] = ""
    run_dir: Annotated[
        str, Meta(description="Sockets and process ids. Empty: below /run/midge for root, else data_dir/run.")
    ] = ""
    listen: Annotated[
        str, Meta(description='Address of the API as HOST:PORT, "[::1]:4280" for IPv6; port 0: any free one.')
    ] = "127.0.0.1:4280"
    allow_plaintext_listen: Annotated[
        bool,
        Meta(description="Listen beyond loopback without TLS: tokens then cross the network readably."),
    ] = False
    tls_cert: Annotated[str, Meta(description="PEM file with the certificate chain; turns TLS on.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file with its private key.")] = ""
    region: Annotated[
        str,
        Meta(description="Region of this host, lower-case letters and digits.", pattern=r"^[a-z0-9]{1,16}$"),
    ] = "local"
    host_name: Annotated[str, Meta(description="Name of this host. Empty: the machine's own.")] = ""
    driver: Annotated[
        Driver, Meta(description="How machines run: auto, firecracker, qemu, container or mock.")
    ] = "auto"
    subnet: Annotated[
        str,
        Meta(
            description="Private IPv4 network of the machines. auto: one the host does not use, kept from then on."
        ),
    ] = "auto"
    nameservers: Annotated[
        str,
        Meta(
            description="Whom machines ask for names: host (its own, read at each start), none, or IPv4 addresses."
        ),
    ] = "host"
    runtime: Annotated[
        str, Meta(description="OCI runtime of the container driver: runc, crun, runsc or a path.")
    ] = "runc"
    kernels_dir: Annotated[
        str,
        Meta(
            description="Guest kernels, shared by all servers of this host. Empty: in the user's cache directory."
        ),
    ] = ""
    warm_slots: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Guests (VMs, containers) kept waiting for the next start, in all. 0: none.",
        ),
    ] = 8
    warm_memory_mb: Annotated[
        int, Meta(ge=0, description="Memory that waiting guests may take in all, MiB.")
    ] = 1024
    parked_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1024,
            description="Virtual machines kept after a suspend, so that a resume takes milliseconds. 0: none.",
        ),
    ] = 4
    parked_memory_mb: Annotated[
        int, Meta(ge=0, description="Memory that they may take in all, MiB. A larger machine is not kept.")
    ] = 512
    parked_s: Annotated[
        float, Meta(gt=0, le=86_400, description="How long one is kept, seconds; then it uses disk only.")
    ] = 300.0
    kernel: Annotated[
        Literal["auto", "debian", "trimmed", "custom"],
        Meta(description="Guest kernel of virtual machines: auto, debian, trimmed or custom."),
    ] = "auto"
    acceleration: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description="Of the qemu driver: kvm or nothing, tcg (emulation), or auto: kvm where it works."),
    ] = "auto"
    rootfs_mb: Annotated[
        int, Meta(ge=64, le=1_048_576, description="Size of a machine's writable layer, MiB.")
    ] = 8192
    memory_total_mb: Annotated[
        int, Meta(ge=0, description="Memory machines may use in all, MiB. 0: what the host has.")
    ] = 0
    memory_overcommit: Annotated[
        float, Meta(ge=1, le=16, description="How many times its memory a host may promise to machines.")
    ] = 1.5
    destroyed_kept_s: Annotated[
        float, Meta(ge=0, le=86_400, description="How long a destroyed machine can still be read, seconds.")
    ] = 600.0
    drain_timeout_s: Annotated[
        int, Meta(ge=0, le=600, description="How long a stop waits for requests under way, seconds.")
    ] = 10
    reconcile_interval_s: Annotated[
        float,
        Meta(ge=1, le=86_400, description="How often machine records are compared with the host, seconds."),
    ] = 60.0
    log_format: Annotated[
        Literal["auto", "json", "console"], Meta(description="auto: console on a terminal, else json.")
    ] = "auto"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error.")
    ] = "info"
    access_log: Annotated[bool, Meta(description="Log every request; costs a good part of its time.")] = False

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`. Raises InvalidInput."""
        return parse_listen(self.listen)


class Loaded(msgspec.Struct, kw_only=True, frozen=True):
    """Settings, and for each where its value came from: a flag, a variable, the file's path, or ``default``."""

    settings: Settings
    origins: dict[str, str]


def load_settings(
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Puts the settings together and checks them.

    Args:
        flags: by member name; None means: not given.
        env: the process's environment if None.
        file: of ``--config``; else the one ``MIDGE_CONFIG`` names.

    Raises:
        InvalidInput: says which value of which origin is wrong.
    """
    env = os.environ if env is None else env
    if file is None and env.get("MIDGE_CONFIG"):
        file = Path(env["MIDGE_CONFIG"])
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names(), "default")
    for name, value in (read_file(file) if file is not None else {}).items():
        values[name], origins[name] = value, str(file)
    for name in names():
        variable = ENV_PREFIX + name.upper()
        if env.get(variable):
            values[name], origins[name] = _convert(name, env[variable], variable), variable
    for name, value in (flags or {}).items():
        if value is not None:
            values[name], origins[name] = value, "--" + name.replace("_", "-")
    settings = _with_data_dir(_build(values, origins))
    check(settings)
    return Loaded(settings=settings, origins=origins)


def names() -> tuple[str, ...]:
    return Settings.__struct_fields__


def read_file(path: Path) -> dict[str, Any]:
    """The file's keys and values.

    Raises:
        InvalidInput: it cannot be read, is no TOML, has an unknown key or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path}: cannot be read: {error}", hint="see `midge config example`") from error
    for key, value in values.items():
        if key not in names():
            close = difflib.get_close_matches(key, names(), n=1)
            raise InvalidInput(
                f"{path}: unknown key {key!r}",
                hint=f"did you mean {close[0]}?" if close else "see `midge config example`",
            )
        _build({key: value}, {key: str(path)})
    return values


def check(settings: Settings) -> None:
    """What types cannot say.

    Raises:
        InvalidInput.
    """
    host, _ = settings.address
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise InvalidInput("tls_cert and tls_key: one is nothing without the other")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise InvalidInput(f"{name}: {path} cannot be read")
    if settings.subnet != "auto":
        _check_subnet(settings.subnet)
    resolver.named(settings.nameservers)
    if not is_loopback(host) and not settings.tls_cert and not settings.allow_plaintext_listen:
        raise InvalidInput(
            f"listen: {settings.listen} can be reached from other hosts, and tokens would cross the network readably",
            hint="set tls_cert and tls_key, or say --allow-plaintext-listen",
        )


def _check_subnet(text: str) -> None:
    try:
        IPv4Network(text)
    except ValueError as error:
        raise InvalidInput(
            f"subnet: {text!r} is no IPv4 network: {error}", hint='"auto", or for example 10.61.0.0/16'
        ) from error


def parse_listen(text: str) -> tuple[str, int]:
    """``HOST:PORT`` in its parts. Raises InvalidInput."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidInput(f"listen: {text!r}: an IPv6 address needs brackets", hint='"[::1]:4280"')
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise InvalidInput(f"listen: not HOST:PORT: {text!r}", hint='for example "127.0.0.1:4280"')
    return host, int(port)


def is_loopback(host: str) -> bool:
    return host in _LOOPBACK or host.startswith("127.")


def example() -> str:
    """A file with every key, commented, with its default."""
    lines = [
        "# Settings of `midge serve`. A flag wins over an environment variable, that over this file.",
        "# Every key is here with its default; times in seconds, memory in MiB.",
    ]
    hints = get_type_hints(Settings, include_extras=True)
    defaults = Settings()
    for name in names():
        meta = next(part for part in hints[name].__metadata__ if isinstance(part, Meta))
        value = msgspec.json.encode(getattr(defaults, name)).decode()  # JSON scalars are TOML scalars
        lines += ["", f"# {meta.description}", f"# {ENV_PREFIX}{name.upper()}", f"# {name} = {value}"]
    return "\n".join(lines) + "\n"


def _convert(name: str, text: str, origin: str) -> Any:
    hint = get_type_hints(Settings)[name]
    try:
        return msgspec.convert(text, hint, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{origin}: {text!r}: {str(error).lower()}") from error


def _build(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    try:
        return msgspec.convert(dict(values), Settings)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise InvalidInput(
            f"{origins.get(name, 'settings')}: {name}: {what.lower().replace('`', '')}"
        ) from error


def _with_data_dir(settings: Settings) -> Settings:
    if settings.data_dir:
        return settings
    chosen = SYSTEM_DATA_DIR if os.geteuid() == 0 else LOCAL_DATA_DIR
    return msgspec.structs.replace(settings, data_dir=chosen)
