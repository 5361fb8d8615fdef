"""`fly.MachineConfig`, as clients send it.

The structs below name and type every member of the published specification, so that a wrong type is found with
its path (``$.config.guest.cpus``). Members nobody knows are ignored here and kept in the stored JSON. What a client
sent is what it gets back, with defaults filled in by `midge.machine.normalise`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

# A duration as Go writes it ("15s", "1m0s") or integer nanoseconds. See `midge.machine.duration`.
Duration = str | int

RestartPolicyName = Literal["no", "always", "on-failure", "spot-price", ""]
Persist = Literal["never", "restart", "always", ""]
StopSignal = Literal["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", ""]


class Guest(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    cpu_kind: str | None = None
    cpus: int | None = None
    memory_mb: int | None = None
    max_memory_mb: int | None = None
    gpu_kind: str | None = None
    gpus: int | None = None
    kernel_args: list[str] | None = None
    host_dedication_id: str | None = None
    persist_rootfs: str | int | None = None


class Init(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    exec: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    tty: bool | None = None
    user: str | None = None
    swap_size_mb: int | None = None
    kernel_args: list[str] | None = None


class Restart(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    policy: RestartPolicyName | None = None
    max_retries: int | None = None
    gpu_bid_price: float | None = None


class StopConfig(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    signal: StopSignal | None = None
    timeout: Duration | None = None


class EnvFrom(msgspec.Struct, kw_only=True, frozen=True):
    env_var: str
    field_ref: Literal["id", "version", "app_name", "private_ip", "region", "image"]


class MachineSecret(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    env_var: str
    name: str | None = None


class Process(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    exec: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: dict[str, str] | None = None
    user: str | None = None
    env_from: list[EnvFrom] | None = None
    secrets: list[MachineSecret] | None = None
    ignore_app_secrets: bool | None = None


class File(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    guest_path: str
    raw_value: str | None = None
    secret_name: str | None = None
    image_config: str | None = None
    mode: int | None = None


class Mount(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    path: str | None = None
    volume: str | None = None
    name: str | None = None
    encrypted: bool | None = None
    size_gb: int | None = None
    extend_threshold_percent: int | None = None
    add_size_gb: int | None = None
    add_size_percent: int | None = None
    min_add_size_gb: int | None = None
    size_gb_limit: int | None = None


class HttpHeader(msgspec.Struct, kw_only=True, frozen=True):
    name: str
    values: list[str] | None = None


class Check(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    type: str | None = None
    kind: Literal["informational", "readiness", ""] | None = None
    port: int | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    grace_period: Duration | None = None
    method: str | None = None
    path: str | None = None
    protocol: str | None = None
    headers: list[HttpHeader] | None = None
    tls_skip_verify: bool | None = None
    tls_server_name: str | None = None


class Concurrency(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    type: str | None = None
    soft_limit: int | None = None
    hard_limit: int | None = None


class Port(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    port: int | None = None
    start_port: int | None = None
    end_port: int | None = None
    handlers: list[str] | None = None
    force_https: bool | None = None
    tls_options: dict[str, Any] | None = None
    http_options: dict[str, Any] | None = None
    proxy_proto_options: dict[str, Any] | None = None


class Service(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    protocol: str | None = None
    internal_port: int | None = None
    autostart: bool | None = None
    autostop: bool | Literal["off", "stop", "suspend", ""] | None = None
    min_machines_running: int | None = None
    concurrency: Concurrency | None = None
    force_instance_key: str | None = None
    force_instance_description: str | None = None
    checks: list[Check] | None = None
    ports: list[Port] | None = None


class Metrics(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    port: int | None = None
    path: str | None = None
    https: bool | None = None


class Static(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    guest_path: str
    url_prefix: str
    tigris_bucket: str | None = None
    index_document: str | None = None


class DnsOption(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    name: str | None = None
    value: str | None = None


class Dns(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    skip_registration: bool | None = None
    nameservers: list[str] | None = None
    searches: list[str] | None = None
    options: list[DnsOption] | None = None
    dns_forward_rules: list[dict[str, Any]] | None = None
    hostname: str | None = None
    hostname_fqdn: str | None = None


class Rootfs(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    persist: Persist | None = None
    size_gb: int | None = None


class CacheDrive(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    size_mb: int | None = None


class MachineConfig(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The whole configuration of one version of a machine."""

    image: str | None = None
    guest: Guest | None = None
    size: str | None = None
    init: Init | None = None
    env: dict[str, str] | None = None
    processes: list[Process] | None = None
    files: list[File] | None = None
    mounts: list[Mount] | None = None
    services: list[Service] | None = None
    checks: dict[str, Check] | None = None
    metrics: Metrics | None = None
    restart: Restart | None = None
    auto_destroy: bool | None = None
    stop_config: StopConfig | None = None
    schedule: str | None = None
    statics: list[Static] | None = None
    dns: Dns | None = None
    metadata: dict[str, str] | None = None
    containers: list[dict[str, Any]] | None = None
    volumes: list[dict[str, Any]] | None = None
    standbys: list[str] | None = None
    rootfs: Rootfs | None = None
    cache_drive: CacheDrive | None = None
    spot: dict[str, Any] | None = None
    disable_machine_autostart: bool | None = None
