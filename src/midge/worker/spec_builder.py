"""From configuration and image to what a driver runs: arguments, environment, files. Pure."""

from __future__ import annotations

from midge.machine.config import Init, MachineConfig, Process
from midge.machine.normalise import file_bytes
from midge.machine.spec import FileSpec, ImageSpec, MachineSpec, NetworkSpec
from midge.worker.record import Machine, shape_of

MOCK_METADATA = "midge.mock"


def argv(init: Init, image: ImageSpec, process: Process | None = None) -> list[str]:
    """The argument vector by the rules of OCI images and `init`.

    `exec` replaces everything; else `entrypoint` (or the image's) followed by `cmd` (or the image's). As in the OCI
    image specification, giving an entrypoint drops the image's own command.
    """
    exec_ = (process.exec if process else None) or init.exec
    if exec_:
        return list(exec_)
    entrypoint = (process.entrypoint if process else None) or init.entrypoint
    cmd = (process.cmd if process else None) or init.cmd
    if entrypoint:
        return [*entrypoint, *(cmd or [])]
    return [*image.entrypoint, *(cmd if cmd else image.cmd)]


def environment(machine: Machine, config: MachineConfig, process: Process | None) -> list[tuple[str, str]]:
    """The complete environment in its documented order: later ones win.

    image → config.env → the process's own → the platform's FLY_ variables, which say who the machine is and so
    cannot be set by anybody else.
    """
    merged: dict[str, str] = {}
    for entry in machine.image_process.env:
        key, _, value = entry.partition("=")
        if key:
            merged[key] = value
    merged.update(config.env or {})
    identity = _identity(machine, config)
    if process:
        for source in process.env_from or []:
            merged[source.env_var] = _field(machine, source.field_ref)
        merged.update(process.env or {})
    merged.update(identity)
    return list(merged.items())


def _field(machine: Machine, name: str) -> str:
    """The value of an `env_from` field reference."""
    if name == "image":
        return image_text(machine)
    return {
        "id": machine.id,
        "version": machine.version,
        "app_name": machine.app,
        "private_ip": machine.ipv4,
        "region": machine.region,
    }[name]


def image_text(machine: Machine) -> str:
    ref = machine.image_ref
    tag = f":{ref.tag}" if ref.tag else ""
    return f"{ref.registry}/{ref.repository}{tag}@{ref.digest}" if ref.registry else f"{ref.repository}{tag}"


def _identity(machine: Machine, config: MachineConfig) -> dict[str, str]:
    group = (config.metadata or {}).get("fly_process_group", "app")
    return {
        "FLY_APP_NAME": machine.app,
        "FLY_MACHINE_ID": machine.id,
        "FLY_ALLOC_ID": machine.id,
        "FLY_MACHINE_VERSION": machine.version,
        "FLY_REGION": machine.region,
        "FLY_IMAGE_REF": image_text(machine),
        "FLY_PRIVATE_IP": machine.ipv4,
        "FLY_PROCESS_GROUP": group,
        "FLY_VM_MEMORY_MB": str(machine.memory_mb),
    }


def build_spec(machine: Machine, start_id: str, log_path: str) -> MachineSpec:
    """Everything a driver needs to prepare or start this version of the machine."""
    config = machine.config
    init = config.init or Init()
    process = config.processes[0] if config.processes else None
    picture = machine.image_process
    image = ImageSpec(
        digest=machine.image_ref.digest,
        reference=image_text(machine),
        entrypoint=picture.entrypoint,
        cmd=picture.cmd,
        env=picture.env,
        working_dir=picture.working_dir,
        user=picture.user,
    )
    dns = config.dns
    hostname = (dns.hostname if dns else None) or machine.id
    options = [f"{o.name}:{o.value}" if o.value else str(o.name) for o in (dns.options or [])] if dns else []
    guest_args = (config.guest.kernel_args if config.guest else None) or []
    return MachineSpec(
        machine_id=machine.id,
        app=machine.app,
        name=machine.name,
        version=machine.version,
        start_id=start_id,
        image=image,
        shape=shape_of(config),
        hostname=hostname,
        argv=argv(init, image, process),
        env=environment(machine, config, process),
        cwd=picture.working_dir or "/",
        user=(process.user if process else None) or init.user,
        tty=bool(init.tty),
        swap_mb=init.swap_size_mb or 0,
        files=[
            FileSpec(path=file.guest_path, data=file_bytes(i, file), mode=file.mode or 0o644)
            for i, file in enumerate(config.files or [])
        ],
        kernel_args=[*(init.kernel_args or []), *guest_args],
        network=NetworkSpec(ipv4=machine.ipv4, mac=machine.mac),
        nameservers=(dns.nameservers if dns else None) or [],
        searches=(dns.searches if dns else None) or [],
        dns_options=options,
        hosts=[(machine.ipv4, [hostname, "fly-local-6pn"])],
        log_path=log_path,
        mock=(config.metadata or {}).get(MOCK_METADATA, ""),
    )
