"""The worker: owns the machines of one host, and the tasks that change them."""

from __future__ import annotations

import asyncio
import os
import shutil
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec
import structlog

from midge.errors import MidgeError, NoCapacity, Unavailable, chain
from midge.ids import new_ulid
from midge.lifecycle.states import Request
from midge.machine.normalise import normalise
from midge.net.ipam import Ipam
from midge.worker import recovery, table
from midge.worker.change import Change, commit
from midge.worker.edits import Edit, new_lease
from midge.worker.events import event
from midge.worker.host import CreateMachine, MachineView, UpdateMachine
from midge.worker.inbox import Accepted, fail
from midge.worker.operations.journal import CreateInput
from midge.worker.operations.update import check_version
from midge.worker.owner import Owner
from midge.worker.parts import Parts
from midge.worker.record import ImageProcess, Machine, shape_of
from midge.worker.requests import Asked, NewVersion
from midge.worker.turn import new_run

FORGET_INTERVAL_S = 15.0
_MAC_PREFIX = "02:4d"  # locally administered

_log = structlog.get_logger("midge.worker")


class Worker:
    """`run` is its task; once `ready` is set, the machines of an earlier worker have been taken up again."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.ready = asyncio.Event()
        self._owners: dict[str, Owner] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._ipam = Ipam(IPv4Network(parts.settings.subnet))
        self._last_address: IPv4Address | None = None

    async def run(self) -> None:
        """Opens the driver, recovers, then serves until cancelled. Machines keep running afterwards."""
        await self.parts.driver.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await recovery.recover(self.parts, self)
                tasks.create_task(self._forget_destroyed(), name="forget destroyed machines")
                self.ready.set()
        finally:
            self.ready.clear()
            self._tasks = None
            await self.parts.driver.aclose()

    def owner(self, machine_id: str) -> Owner:
        """The machine's owner task, begun if it has none.

        Raises:
            NotFound.
        """
        self.parts.catalog.get(machine_id)
        owner = self._owners.get(machine_id)
        if owner is None or owner.closed:
            owner = Owner(machine_id, self.parts, self._retired)
            self._owners[machine_id] = owner
        return owner

    def _retired(self, owner: Owner) -> None:
        if self._owners.get(owner.id) is owner:
            del self._owners[owner.id]

    def begin(self, owner: Owner) -> None:
        """Runs an owner's task if it does not run yet. Its inbox must hold something."""
        if not owner.begun:
            owner.begun = True
            self._group.create_task(self._run_owner(owner), name=f"owner {owner.id}")

    @property
    def _group(self) -> asyncio.TaskGroup:
        if self._tasks is None:
            raise Unavailable("midge is starting or shutting down", hint="try again")
        return self._tasks

    async def _run_owner(self, owner: Owner) -> None:
        """A bug in the handling of one machine must not end all the others' owners."""
        try:
            await owner.run()
        except Exception as error:
            _log.error("owner of a machine failed", machine=owner.id, error=chain(error), exc_info=error)

    async def ask(
        self, machine_id: str, request: Request, params: dict[str, Any], *, nonce: str = ""
    ) -> Accepted:
        owner = self.owner(machine_id)
        answer = owner.post(request, msgspec.convert(params, Asked), nonce=nonce)
        self.begin(owner)
        return await answer

    # ── create and update ─────────────────────────────────────────────────────────────────────────────────────

    async def create(self, request: CreateMachine) -> MachineView:
        parts = self.parts
        # When it was asked for: a registry may answer late, and by then another app may have the name of this one's.
        asked_ns = parts.clock.now_ns()
        config, config_json = normalise(request.config, request.config_json)
        shape = shape_of(config)
        self._check_fits(shape.memory_mb)
        ref = await parts.images.resolve(config.image or "")
        now_ns = parts.clock.now_ns()
        address = self._take_address()
        try:
            lease = None
            if request.lease_ttl_s:
                lease = new_lease(request.lease_ttl_s, request.owner, "", now_ns)
            machine = Machine(
                id=request.id,
                app=request.app,
                name=request.name,
                region=request.region,
                state="creating",
                version=new_ulid(),
                config_json=config_json,
                image_ref=ref,
                image_process=ImageProcess(),
                ipv4=str(address),
                mac=f"{_MAC_PREFIX}:{os.urandom(4).hex(':')}",
                created_at_ns=asked_ns,
                updated_at_ns=now_ns,
                seq=1,
                memory_mb=shape.memory_mb,
                cordoned=request.cordoned,
                lease=lease,
            )
            recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._group.create_task(
                self._record(machine, request.skip_launch, recorded), name=f"record {machine.id}"
            )
        except BaseException:
            parts.catalog.addresses.discard(address)
            raise
        # Once it is being written it will exist, whether the client stays to hear it or not.
        await asyncio.shield(recorded)
        return machine.view(now_ns)

    async def _record(self, machine: Machine, skip_launch: bool, recorded: asyncio.Future[None]) -> None:
        """Writes a new machine and begins its create."""
        parts, now_ns = self.parts, machine.updated_at_ns
        run = new_run("create", machine.id, CreateInput(skip_launch=skip_launch), now_ns)
        launch = event("launch", "created", "user", now_ns)
        try:
            await commit(parts, Change(machine, events=[launch], runs=[run], new=True))
            owner = self.owner(machine.id)
            owner.take_up(run, None)
            self.begin(owner)
        except Exception as error:
            parts.catalog.addresses.discard(IPv4Address(machine.ipv4))
            fail(recorded, error)
            return
        finally:
            if not recorded.done() and machine.id not in parts.catalog:
                recorded.cancel()  # shut down in the middle: whether it was written shows at the next start
        recorded.set_result(None)

    def _check_fits(self, memory_mb: int) -> None:
        total = self.parts.settings.memory_total_mb
        if total is not None and memory_mb > total:
            raise NoCapacity(
                "could not find a candidate host",
                hint=f"the machine asks for {memory_mb} MB, the largest host has {total} MB",
            )

    def _take_address(self) -> IPv4Address:
        """Reserves one at once, so that two creates at the same time do not get the same."""
        address = self._ipam.allocate(self.parts.catalog.addresses, after=self._last_address)
        self.parts.catalog.addresses.add(address)
        self._last_address = address
        return address

    async def update(self, machine_id: str, request: UpdateMachine, *, nonce: str = "") -> MachineView:
        parts = self.parts
        machine = parts.catalog.get(machine_id)
        config, config_json = normalise(request.config, request.config_json)
        shape = shape_of(config)
        self._check_fits(shape.memory_mb)
        check_version(request.current_version, machine)
        ref = await parts.images.resolve(config.image or "")
        wanted = NewVersion(
            version=new_ulid(),
            config_json=config_json,
            image_ref=ref,
            metadata=config.metadata or {},
            memory_mb=shape.memory_mb,
            skip_launch=request.skip_launch,
            current_version=request.current_version,
            lease_ttl_s=request.lease_ttl_s or 0,
            owner=request.owner,
        )
        owner = self.owner(machine_id)
        answer = owner.post("update", wanted, nonce=nonce)
        self.begin(owner)
        await answer
        return parts.catalog.get(machine_id).view(parts.clock.now_ns())

    async def call(self, machine_id: str, edit: Edit) -> Machine:
        """Changes the machine's record in its owner's turn. Returns the machine after it."""
        owner = self.owner(machine_id)
        answer = owner.post_call(edit)
        self.begin(owner)
        return await answer

    async def _forget_destroyed(self) -> None:
        """Drops machines that were destroyed `destroyed_kept_s` ago, with their logs."""
        parts = self.parts
        while True:
            await asyncio.sleep(FORGET_INTERVAL_S)
            limit_ns = parts.clock.now_ns() - int(parts.settings.destroyed_kept_s * 1e9)
            for machine in [m for m in parts.catalog if m.destroyed_at_ns and m.destroyed_at_ns < limit_ns]:
                try:
                    await self.forget(machine.id)
                except MidgeError as error:  # the next round may do better
                    _log.warning("machine not forgotten", machine=machine.id, error=chain(error))

    async def forget(self, machine_id: str) -> None:
        """Removes the last traces of a destroyed machine."""
        parts = self.parts
        if machine_id in self._owners or parts.catalog.get(machine_id).state != "destroyed":
            return
        await parts.database.write(lambda connection: table.delete_machine(connection, machine_id))
        parts.catalog.forget(machine_id)
        await asyncio.to_thread(shutil.rmtree, parts.log_path(machine_id).parent, ignore_errors=True)
