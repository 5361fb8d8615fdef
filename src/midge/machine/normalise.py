"""Turns what a client sent into a configuration with nothing left open, or says what is wrong with it.

The Machines API echoes the configuration with defaults filled in, and clients send members that no server knows: so
the JSON the client sent is kept, and only gaps are filled.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from midge.errors import InvalidInput, NotSupported
from midge.machine import duration
from midge.machine.config import File, Guest, MachineConfig, Process

CPUS_MAX = 128
MEMORY_MIN_MB = 64  # Linux, the init and a shell do not fit in less
MEMORY_MAX_MB = 1024 * 1024
STOP_TIMEOUT_DEFAULT_S = 5.0
STOP_TIMEOUT_MAX_S = 300.0
FILES_MAX = 256
FILE_MAX_BYTES = 8 * 1024 * 1024
ENV_MAX_BYTES = 512 * 1024  # a quarter of Linux' limit for arguments and environment together
SWAP_MAX_MB = 65_536
METADATA_MAX_BYTES = 64 * 1024
RETRIES_MAX = 100_000

_PRESET = re.compile(r"(shared-cpu|performance)-(\d+)x")
_SHARED_MB_PER_CPU = 256
_PERFORMANCE_MB_PER_CPU = 2048

# Members of the specification that a later version of Midge gives a meaning. To accept them and do nothing would be
# worse than to say so; empty values are what some clients always send.
_NOT_YET = {
    "containers": "several containers in one machine",
    "mounts": "volumes",
    "standbys": "standby machines",
    "schedule": "scheduled machines",
    "cache_drive": "cache drives",
    "volumes": "volumes",
}


def normalise(config: MachineConfig, config_json: bytes) -> tuple[MachineConfig, bytes]:
    """The configuration with defaults, typed and as JSON.

    Raises:
        InvalidInput: a value makes no sense; the message begins with the member's path.
        NotSupported: a member asks for what this version does not do.
    """
    raw: dict[str, Any] = msgspec.json.decode(config_json)
    if not config.image:
        raise InvalidInput("config.image: an image is required", hint='for example "debian:12"')
    _refuse_what_is_missing(config)
    guest = _guest(config)
    raw["guest"] = {**(raw.get("guest") or {}), **msgspec.to_builtins(guest)}
    raw.pop("size", None)
    raw["init"] = raw.get("init") or {}
    restart = raw.get("restart") or {}
    raw["restart"] = {**restart, "policy": restart.get("policy") or "on-failure"}
    if raw["restart"]["policy"] == "on-failure" and raw["restart"].get("max_retries") is None:
        raw["restart"]["max_retries"] = 10
    for service in raw.get("services") or []:
        _normalise_autostop(service)
    encoded = msgspec.json.encode(raw)
    full = msgspec.json.decode(encoded, type=MachineConfig)
    _check(full)
    return full, encoded


def _refuse_what_is_missing(config: MachineConfig) -> None:
    for member, what in _NOT_YET.items():
        if getattr(config, member):
            raise NotSupported(
                f"config.{member}: {what} are not supported by this version of midge",
                hint=f"remove {member} from the configuration",
            )
    if len(config.processes or []) > 1:
        raise NotSupported(
            "config.processes: several processes in one machine are not supported by this version of midge",
            hint="give one process, or run one machine each",
        )
    guest = config.guest
    if guest and (guest.gpu_kind or guest.gpus):
        raise NotSupported("config.guest.gpus: this host offers no GPU", hint="remove gpu_kind and gpus")
    for path, given in (
        ("guest.kernel_args", guest and guest.kernel_args),
        ("init.kernel_args", config.init and config.init.kernel_args),
    ):
        if given:
            raise NotSupported(
                f"config.{path}: kernels are booted before they know their machine, and take no arguments of it",
                hint=f"remove {path}",
            )
    if config.rootfs and config.rootfs.persist not in (None, "", "never"):
        raise NotSupported(
            "config.rootfs.persist: a root filesystem that persists is not supported by this version of midge",
            hint='use "never"',
        )


def _guest(config: MachineConfig) -> Guest:
    guest = config.guest or Guest()
    if config.size:
        if config.guest is not None and config.guest != Guest():
            raise InvalidInput("config.size: give either size or guest, not both")
        guest = preset(config.size)
    kind = guest.cpu_kind or "shared"
    if kind not in ("shared", "performance"):
        raise InvalidInput(f"config.guest.cpu_kind: no such kind: {kind!r}", hint="shared or performance")
    cpus = guest.cpus if guest.cpus else 1
    per_cpu = _SHARED_MB_PER_CPU if kind == "shared" else _PERFORMANCE_MB_PER_CPU
    memory = guest.memory_mb if guest.memory_mb else per_cpu * cpus
    if not 1 <= cpus <= CPUS_MAX:
        raise InvalidInput(f"config.guest.cpus: {cpus} is not between 1 and {CPUS_MAX}")
    if not MEMORY_MIN_MB <= memory <= MEMORY_MAX_MB:
        raise InvalidInput(
            f"config.guest.memory_mb: {memory} is not between {MEMORY_MIN_MB} and {MEMORY_MAX_MB}",
            hint=f"the smallest machine has {MEMORY_MIN_MB} MB"
            if memory < MEMORY_MIN_MB
            else f"the largest machine has {MEMORY_MAX_MB} MB",
        )
    return Guest(cpu_kind=kind, cpus=cpus, memory_mb=memory)


def preset(size: str) -> Guest:
    """A size such as ``shared-cpu-2x`` as a guest.

    Raises:
        InvalidInput: there is no such size.
    """
    match = _PRESET.fullmatch(size)
    cpus = int(match[2]) if match else 0
    if match is None or not 1 <= cpus <= CPUS_MAX:
        raise InvalidInput(
            f"config.size: no such size: {size!r}", hint="for example shared-cpu-1x, performance-2x"
        )
    shared = match[1] == "shared-cpu"
    per_cpu = _SHARED_MB_PER_CPU if shared else _PERFORMANCE_MB_PER_CPU
    return Guest(cpu_kind="shared" if shared else "performance", cpus=cpus, memory_mb=per_cpu * cpus)


def _normalise_autostop(service: dict[str, Any]) -> None:
    """Requests carry ``"off" | "stop" | "suspend"`` or a boolean; answers use false, true and ``"suspend"``."""
    if "autostop" in service:
        service["autostop"] = {"off": False, "": False, None: False, "stop": True}.get(
            service["autostop"], service["autostop"]
        )


def _check(config: MachineConfig) -> None:
    stop_timeout_s(config)
    restart = config.restart
    if restart and restart.max_retries is not None and not 0 <= restart.max_retries <= RETRIES_MAX:
        raise InvalidInput(
            f"config.restart.max_retries: {restart.max_retries} is not between 0 and {RETRIES_MAX}"
        )
    _check_env("config.env", config.env or {})
    for index, process in enumerate(config.processes or []):
        _check_process(index, process)
    init = config.init
    if init and init.swap_size_mb is not None and not 0 <= init.swap_size_mb <= SWAP_MAX_MB:
        raise InvalidInput(
            f"config.init.swap_size_mb: {init.swap_size_mb} is not between 0 and {SWAP_MAX_MB}"
        )
    if len(config.files or []) > FILES_MAX:
        raise InvalidInput(f"config.files: {len(config.files or [])} files, at most {FILES_MAX}")
    for index, file in enumerate(config.files or []):
        file_bytes(index, file)
    check_metadata("config.metadata", config.metadata or {})


def check_metadata(path: str, metadata: dict[str, str]) -> None:
    """Raises InvalidInput if keys and values have more than METADATA_MAX_BYTES in all."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > METADATA_MAX_BYTES:
        raise InvalidInput(f"{path}: {size} bytes, at most {METADATA_MAX_BYTES}")


def _check_env(path: str, env: dict[str, str]) -> None:
    for key, value in env.items():
        if not key or "=" in key or "\0" in key:
            raise InvalidInput(f"{path}: not a name of an environment variable: {key!r}")
        if "\0" in value:
            raise InvalidInput(f"{path}.{key}: a value cannot hold a NUL character")
    size = sum(len(key.encode()) + len(value.encode()) + 2 for key, value in env.items())
    if size > ENV_MAX_BYTES:
        raise InvalidInput(
            f"{path}: {size} bytes, at most {ENV_MAX_BYTES}", hint="put large values into files"
        )


def _check_process(index: int, process: Process) -> None:
    _check_env(f"config.processes[{index}].env", process.env or {})
    if process.secrets:
        raise NotSupported(
            f"config.processes[{index}].secrets: secrets are not supported by this version of midge",
            hint="remove secrets from the process",
        )


def file_bytes(index: int, file: File) -> bytes:
    """The contents of one of `config.files`.

    Raises:
        InvalidInput, NotSupported.
    """
    path = f"config.files[{index}]"
    if not file.guest_path.startswith("/") or "\0" in file.guest_path or ".." in file.guest_path.split("/"):
        raise InvalidInput(f"{path}.guest_path: not an absolute path without '..': {file.guest_path!r}")
    if file.secret_name or file.image_config:
        member = "secret_name" if file.secret_name else "image_config"
        raise NotSupported(f"{path}.{member}: not supported by this version of midge", hint="use raw_value")
    if file.raw_value is None:
        raise InvalidInput(f"{path}.raw_value: required", hint="the contents in base64")
    if file.mode is not None and not 0 <= file.mode <= 0o7777:
        raise InvalidInput(f"{path}.mode: {file.mode} is not a file mode", hint="420 is 0644")
    try:
        data = base64.b64decode(file.raw_value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{path}.raw_value: not base64") from error
    if len(data) > FILE_MAX_BYTES:
        raise InvalidInput(f"{path}.raw_value: {len(data)} bytes, at most {FILE_MAX_BYTES}")
    return data


def stop_timeout_s(config: MachineConfig) -> float:
    """How long a stop waits for the process before it is killed, seconds."""
    stop = config.stop_config
    if stop is None or stop.timeout is None or stop.timeout == "":
        return STOP_TIMEOUT_DEFAULT_S
    value = duration.seconds(stop.timeout, field="config.stop_config.timeout")
    if value > STOP_TIMEOUT_MAX_S:
        raise InvalidInput(f"config.stop_config.timeout: {value:g} s is more than {STOP_TIMEOUT_MAX_S:g} s")
    return value or STOP_TIMEOUT_DEFAULT_S
