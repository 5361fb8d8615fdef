"""A Firecracker without virtual machines: its API with the rules of its states, and a guest that is a `FakeInit`.

    python -m midge.testing.fake_firecracker --id ID --api-sock PATH [--jail DIRECTORY --uid UID]

As in the real one: bodies with members that are not known are refused, devices are set up before the boot only, a
snapshot is loaded into a fresh process only and taken of a paused guest only, and every file that is named must be
there. `root` stands before each path; as a program it can go into a real jail, once it has loaded what it needs.

What the guest runs is said by its argv: ``run`` until a signal comes, ``exit CODE``, ``say WORDS`` and then as run.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any, Self

import msgspec

from midge.guest import messages as m
from midge.guest import protocol as p
from midge.testing.fake_init import FakeInit, GuestScript

VERSION = "1.12.1"
_BEFORE_BOOT = "The requested operation is not supported after starting the microVM."
_AFTER_BOOT = "The requested operation is not supported before starting the microVM."
# Members of each body; those marked are optional.
_MEMBERS = {
    "PUT /boot-source": "kernel_image_path initrd_path? boot_args?",
    "PUT /machine-config": "vcpu_count mem_size_mib smt? track_dirty_pages? cpu_template? huge_pages?",
    "PUT /drives/": "drive_id is_root_device path_on_host is_read_only rate_limiter? cache_type? io_engine?",
    "PUT /network-interfaces/": "iface_id host_dev_name guest_mac? rx_rate_limiter? tx_rate_limiter?",
    "PUT /vsock": "guest_cid uds_path vsock_id?",
    "PUT /entropy": "rate_limiter?",
    "PUT /actions": "action_type",
    "PATCH /vm": "state",
    "PATCH /drives/": "drive_id path_on_host? rate_limiter?",
    "PATCH /network-interfaces/": "iface_id rx_rate_limiter? tx_rate_limiter?",
    "PUT /snapshot/create": "snapshot_path mem_file_path snapshot_type?",
    "PUT /snapshot/load": "snapshot_path mem_backend resume_vm? enable_diff_snapshots? network_overrides?",
}
_POST_BOOT = ("PATCH ", "PUT /snapshot/create")


class Fault(Exception):
    """A request that is refused."""


class FakeFirecracker:
    """Listens at `api_socket` from `start` on.

    Attributes:
        state: as `GET /` says it.
        config: bodies by request, as far as they were accepted.
        requests: every request since the beginning, refused ones too.
        faults: requests to refuse, with the reason.
        stopped: set when the guest has powered off.
    """

    def __init__(self, api_socket: Path, *, id: str = "fake", root: Path | None = None) -> None:
        self.id = id
        self.state = "Not started"
        self.config: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.faults: dict[str, str] = {}
        self.stopped = asyncio.Event()
        self.init = FakeInit()
        self._api_socket = api_socket
        self._root = root
        self._servers: list[asyncio.Server] = []
        self._resumed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        self._servers.append(await asyncio.start_unix_server(self._serve_api, self._api_socket))

    async def aclose(self) -> None:
        for server in self._servers:
            server.close()

    # ── API ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve_api(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                writer.write(await self._answer(method, path, body))
                await writer.drain()
        writer.close()

    async def _answer(self, method: str, path: str, body: bytes) -> bytes:
        self.requests.append(f"{method} {path}")
        try:
            if method == "GET":
                info = {"id": self.id, "state": self.state, "vmm_version": VERSION, "app_name": "Firecracker"}
                return _response("200 OK", info)
            await self._do(method, path, msgspec.json.decode(body) if body else {})
        except (Fault, OSError) as error:
            return _response("400 Bad Request", {"fault_message": str(error)})
        return b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"

    async def _do(self, method: str, path: str, body: dict[str, Any]) -> None:
        request = f"{method} {path}"
        if reason := self.faults.get(request):
            raise Fault(reason)
        rule = next((rule for rule in _MEMBERS if request == rule or _is_item(request, rule)), None)
        if rule is None:
            raise Fault(f"Invalid request method and/or path: {request}.")
        members = _MEMBERS[rule].split()
        unknown = body.keys() - {name.removesuffix("?") for name in members}
        missing = [name for name in members if not name.endswith("?") and name not in body]
        if unknown or missing:
            what = f"unknown field `{min(unknown)}`" if unknown else f"missing field `{missing[0]}`"
            raise Fault(f"An error occurred when deserializing the json body of a request: {what}.")
        post = rule.startswith(_POST_BOOT)
        if post and self.state == "Not started":
            raise Fault(_AFTER_BOOT)
        if not post and self.state != "Not started":
            raise Fault(_BEFORE_BOOT)
        for name in ("kernel_image_path", "initrd_path", "path_on_host"):
            if name in body and not self._path(body[name]).exists():
                raise Fault(f"Unable to open {body[name]}: No such file or directory (os error 2)")
        await self._carry_out(request, body)
        self.config[request] = body

    async def _carry_out(self, request: str, body: dict[str, Any]) -> None:
        match request:
            case "PUT /actions":
                if "PUT /boot-source" not in self.config:
                    raise Fault("Cannot start microvm without kernel configuration.")
                await self._run()
            case "PATCH /vm":
                self.state = {"Paused": "Paused", "Resumed": "Running"}[body["state"]]
                self._resumed.set() if self.state == "Running" else self._resumed.clear()
            case "PUT /snapshot/create":
                if self.state != "Paused":
                    raise Fault("Operation not allowed: save/restore unavailable while running")
                self._save(body)
            case "PUT /snapshot/load":
                await self._load(body)

    def _save(self, body: dict[str, Any]) -> None:
        memory_mb = self.config["PUT /machine-config"]["mem_size_mib"]
        fd = os.open(self._path(body["mem_file_path"]), os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(fd, memory_mb * 1024 * 1024)
        os.pwrite(fd, b"guest memory", 4096)
        os.close(fd)
        saved = {"config": self.config, "guest": self.init.state}
        self._path(body["snapshot_path"]).write_bytes(msgspec.json.encode(saved))

    async def _load(self, body: dict[str, Any]) -> None:
        if self.config:
            raise Fault("Loading a microVM snapshot not allowed after configuring boot-specific resources.")
        saved = msgspec.json.decode(self._path(body["snapshot_path"]).read_bytes())
        self._path(body["mem_backend"]["backend_path"]).open("rb").close()
        self.config = saved["config"]
        for request, device in self.config.items():
            if request.startswith("PUT /drives/"):
                self._path(device["path_on_host"]).open("rb").close()
        self.init.state = saved["guest"]
        await self._run()
        if not body.get("resume_vm"):
            self.state = "Paused"
            self._resumed.clear()

    async def _run(self) -> None:
        self.state = "Running"
        self._resumed.set()
        vsock = self.config.get("PUT /vsock")
        if vsock is not None:
            path = self._path(vsock["uds_path"])
            self._servers.append(await asyncio.start_unix_server(self._serve_vsock, path))

    def _path(self, path: str) -> Path:
        return Path(path) if self._root is None else self._root / path.lstrip("/")

    # ── guest ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve_vsock(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if await reader.readuntil(b"\n") == b"CONNECT 10000\n":
                writer.write(b"OK 1073741824\n")
                await self._serve_guest(reader, writer)
        writer.close()

    async def _serve_guest(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = p.FrameDecoder()
        while data := await reader.read(65_536):
            for frame in decoder.feed(data):
                await self._resumed.wait()
                if frame.type == p.FrameType.RUN and self.init.configure is not None:
                    self.init.script = script_of(self.init.configure.argv)
                writer.write(self.init.on_frame(frame))
                if frame.type == p.FrameType.EXIT_ACK:
                    self.stopped.set()
            await writer.drain()


def script_of(argv: tuple[str, ...]) -> GuestScript:
    match argv:
        case ("exit", code):
            return GuestScript(exit=m.GuestExit(exit_code=int(code)))
        case ("say", *words):
            return GuestScript(output=(("stdout", " ".join(words).encode() + b"\n"),))
    return GuestScript()


def _is_item(request: str, rule: str) -> bool:
    return rule.endswith("/") and request.startswith(rule)


def _response(status: str, body: dict[str, Any]) -> bytes:
    data = msgspec.json.encode(body)
    head = f"HTTP/1.1 {status}\r\nServer: Firecracker API\r\nConnection: keep-alive\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


async def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--id", required=True)
    parser.add_argument("--api-sock", required=True)
    parser.add_argument("--jail", type=Path)
    parser.add_argument("--uid", type=int)
    args = parser.parse_args()
    if args.jail is not None:
        os.chroot(args.jail)
        os.chdir("/")
    if args.uid is not None:
        os.setgroups([])
        os.setgid(args.uid)
        os.setuid(args.uid)
    async with FakeFirecracker(Path(args.api_sock), id=args.id) as firecracker:
        await firecracker.stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main())
