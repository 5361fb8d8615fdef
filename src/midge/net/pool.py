"""The pool of network slots of one host: made ahead, taken at a start, cleaned or replaced after a stop.

::

             make            take(ip), reserve         give_back
    (none) ───────► free ───────────────────► taken ───────────► free      a tap, reset
       ▲             │                          ▲  │
       │             │ too many, aclose         │  └───────────► dirty     a veth: its container may have changed it
       └─ destroy ── dirty ◄── sweep        adopt(name)

Taken slots belong to machines and outlive this process. One keeper task makes and destroys; `take` finds a slot ready
and sends two to five netlink messages on a thread of its own, so that a slow destruction never stands before it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

import structlog

from midge.errors import Conflict, MidgeError, NoCapacity, Unavailable
from midge.net import conntrack, host, nft
from midge.net.config import NetConfig, NetPoolStatistics
from midge.net.naming import SLOT_NUMBER_MAX, machine_mac, netns_name, slot_number
from midge.net.netlink import NetlinkSocket
from midge.net.slot import FreeSlot, NetSlot, SlotKind, SlotMaker, empty, fill
from midge.net.tap import reset_tap

P = ParamSpec("P")
T = TypeVar("T")

# Slots destroyed in one go: they share one grace period of the kernel, during which it changes no other link.
DESTROY_BATCH_MAX = 32
# Numbers tried for one new slot; more in use at once is not a collision but a fault.
_NUMBER_ATTEMPTS_MAX = 16
# Seconds between looks whether somebody flushed our table (`systemctl reload nftables` does).
FIREWALL_CHECK_S = 5.0
# Seconds the keeper waits after a failure; doubled each time up to the maximum.
_BACKOFF_S, _BACKOFF_MAX_S = 0.2, 30.0
# Seconds the keeper lets a burst of starts pass before it makes and destroys: both hold the kernel's network lock.
_BURST_S = 0.03
# Threads for what blocks: making, destroying, looking through tracked connections.
_SLOW_THREADS = 2

_log = structlog.get_logger(__name__)


class NetPool:
    """See the module. ``async with NetPool(config) as pool``, or `open` and `aclose`."""

    def __init__(self, config: NetConfig) -> None:
        self.config = config
        self._maker = SlotMaker(config.tag, config.mtu, config.tap_uid)
        self._free: dict[SlotKind, deque[FreeSlot]] = {"tap": deque(), "veth": deque()}
        self._taken: dict[str, NetSlot] = {}
        # Sockets into the namespaces of reserved slots of kind veth, which `assign` needs.
        self._inner: dict[str, NetlinkSocket] = {}
        self._dirty: deque[str] = deque()
        self._busy: set[str] = set()
        self._number = 0
        self._firewall_checked = 0.0
        self._router = True
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._fast: ThreadPoolExecutor | None = None
        self._slow: ThreadPoolExecutor | None = None
        self._host: NetlinkSocket | None = None
        self._counts = NetPoolStatistics(
            free={},
            taken=0,
            dirty=0,
            made=0,
            destroyed=0,
            taken_without_waiting=0,
            taken_after_making=0,
            firewall_restored=0,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Checks the host, claims the address pool, sets forwarding and firewall, and starts filling.

        Raises: NotSupported without privileges, /dev/net/tun or nft; Conflict if the address pool is taken.
        """
        host.require(tap=bool(self.config.free_high.get("tap")))
        self._fast = ThreadPoolExecutor(1, thread_name_prefix="net-fast")
        self._slow = ThreadPoolExecutor(_SLOW_THREADS, thread_name_prefix="net-slow")
        try:
            self._router = await self._in_slow(host.enter, self.config.tag, self.config.pool)
            await self._apply_firewall()
            self._host = await self._in_fast(NetlinkSocket.open)
            left = await self._in_slow(self._maker.leftovers)
        except BaseException:
            self._shut_threads()
            raise
        self._number = max((slot_number(self.config.tag, name) or 0 for name in left), default=0)
        self._keeper = asyncio.create_task(self._keep(), name="net-pool-keeper")

    async def aclose(self, *, destroy_free: bool = True) -> None:
        """Stops the keeper and destroys free and dirty slots; machines keep theirs.

        When no slot of the instance is left, firewall, address claim and forwarding go too. With
        `destroy_free=False` everything stays, for the next `open` and its `sweep`. Idempotent.
        """
        if (keeper := self._keeper) is not None:
            keeper.cancel()
            await asyncio.wait([keeper])
            self._keeper = None
        if self._slow is None:
            return
        try:
            for queue in self._free.values():
                while queue:
                    self._discard(queue.popleft())
            if destroy_free:
                while self._dirty:
                    await self._destroy_batch()
                if not await self._in_slow(self._maker.leftovers):
                    await self._leave_host()
        finally:
            self._shut_threads()
        if keeper is not None and not keeper.cancelled() and (error := keeper.exception()) is not None:
            raise error

    async def take(self, kind: SlotKind, ip: IPv4Address, mac: str | None = None) -> NetSlot:
        """A slot that carries this machine's address; `mac` defaults to `machine_mac(ip)`.

        Raises: NoCapacity at `slots_max`; Conflict if the address is routed already; Unavailable; OSError.
        """
        ready = await self._ready(kind)
        try:
            slot = await self._in_fast(fill, self._opened(), ready, ip, mac or machine_mac(ip))
        except BaseException:
            self._discard(ready)
            raise
        ready.close()
        self._taken[slot.name] = slot
        return slot

    async def reserve(self, kind: SlotKind = "tap") -> NetSlot:
        """A slot without an address, for a guest that does not know yet which machine it will be.

        Raises: NoCapacity at `slots_max`; Unavailable; OSError.
        """
        ready = await self._ready(kind)
        self._taken[ready.slot.name] = ready.slot
        if ready.inner is not None:
            self._inner[ready.slot.name] = ready.inner
        return ready.slot

    async def assign(self, slot: NetSlot, ip: IPv4Address, mac: str | None = None) -> NetSlot:
        """Gives a slot that `reserve` has returned its machine's address. At most once for a veth.

        Raises: Conflict if the address is routed already; the slot is only good for `give_back` then.
        """
        ready = FreeSlot(slot, self._inner.pop(slot.name, None))
        if slot.kind == "veth" and ready.inner is None:
            raise Conflict(f"network slot {slot.name} has had its address", hint="take another slot")
        try:
            filled = await self._in_fast(fill, self._opened(), ready, ip, mac or machine_mac(ip))
        finally:
            ready.close()
        self._taken[slot.name] = filled
        return filled

    async def _ready(self, kind: SlotKind) -> FreeSlot:
        ready = self._free[kind].popleft() if self._free[kind] else None
        self._wake.set()
        if ready is not None:
            self._count("taken_without_waiting")
            return ready
        ready = await self._make(kind)
        self._count("taken_after_making")
        return ready

    async def give_back(self, slot: NetSlot) -> None:
        """Takes a stopped machine's slot back; its address may be used again as soon as this returns.

        Everything that had the slot open must have ended. Works for slots of an earlier process too. Raises: OSError.
        """
        self._busy.add(slot.name)
        self._taken.pop(slot.name, None)
        if (inner := self._inner.pop(slot.name, None)) is not None:
            inner.close()
        try:
            await self._in_fast(empty, self._opened(), slot)
            if slot.ip is not None:
                await self._in_slow(conntrack.forget, slot.ip)
            if not await self._recycle(slot):
                self._dirty.append(slot.name)
        except BaseException:
            self._dirty.append(slot.name)
            raise
        finally:
            self._busy.discard(slot.name)
            self._wake.set()

    async def adopt(self, name: str) -> NetSlot:
        """Takes over the slot a machine has since an earlier process. Idempotent. Raises: NotFound."""
        if (slot := self._taken.get(name)) is None:
            slot = self._taken[name] = await self._in_slow(self._maker.inspect, name)
        return slot

    async def sweep(self, known: Collection[str] = ()) -> list[str]:
        """Destroys all slots of this instance that neither the caller knows nor this pool; returns their names."""
        ours = self._names()
        found = await self._in_slow(self._maker.leftovers)
        # Ours before the look and after it: one may have been made, or given back and destroyed, meanwhile.
        stray = sorted(found - ours - self._names() - set(known))
        for start in range(0, len(stray), DESTROY_BATCH_MAX):
            await self._in_slow(self._maker.destroy, stray[start : start + DESTROY_BATCH_MAX])
        return stray

    def statistics(self) -> NetPoolStatistics:
        return replace(
            self._counts,
            free={kind: len(queue) for kind, queue in self._free.items()},
            taken=len(self._taken),
            dirty=len(self._dirty),
        )

    async def _recycle(self, slot: NetSlot) -> bool:
        """Puts a tap slot back among the free ones, if it can be made as new and is wanted."""
        if slot.kind != "tap" or self._full("tap"):
            return False
        try:
            await self._in_slow(reset_tap, slot.netns_path)
        except OSError as error:
            _log.warning("network slot not reusable", slot=slot.name, error=str(error))
            return False
        if self._full("tap") or self._keeper is None:
            return False
        self._free["tap"].append(FreeSlot(replace(slot, ip=None, mac=None), None))
        return True

    def _full(self, kind: SlotKind) -> bool:
        return len(self._free[kind]) >= self.config.free_high.get(kind, 0)

    def _names(self) -> set[str]:
        """Every slot this pool has, in whatever state."""
        free = (ready.slot.name for queue in self._free.values() for ready in queue)
        return {*self._taken, *self._busy, *self._dirty, *free}

    def _discard(self, free: FreeSlot) -> None:
        free.close()
        self._dirty.append(free.slot.name)
        self._wake.set()

    async def _make(self, kind: SlotKind) -> FreeSlot:
        if len(self._names()) >= self.config.slots_max:
            raise NoCapacity(f"all {self.config.slots_max} network slots of this host are in use")
        for _ in range(_NUMBER_ATTEMPTS_MAX):
            self._number = self._number % SLOT_NUMBER_MAX + 1
            name = netns_name(self.config.tag, self._number)
            if name in self._busy or name in self._taken:
                continue
            self._busy.add(name)
            try:
                free = await self._in_slow(self._maker.make, kind, self._number)
            except FileExistsError:
                continue
            except BaseException:
                self._dirty.append(name)
                raise
            finally:
                self._busy.discard(name)
            self._count("made")
            return free
        raise Unavailable("no free number for a network slot", hint="midge did not sweep after a crash")

    async def _keep(self) -> None:
        backoff_s = _BACKOFF_S
        while True:
            try:
                await self._refill()
                while self._dirty:
                    await self._destroy_batch()
                await self._check_firewall()
                backoff_s = _BACKOFF_S
            except (OSError, MidgeError) as error:
                _log.warning("network pool", error=str(error), retry_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(FIREWALL_CHECK_S):
                    await self._wake.wait()
            await asyncio.sleep(_BURST_S)
            self._wake.clear()

    async def _check_firewall(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._firewall_checked + FIREWALL_CHECK_S:
            return
        if not await self._in_slow(nft.exists, self.config.tag):
            _log.warning("the firewall table was removed by somebody; putting it back")
            await self._apply_firewall()
            self._count("firewall_restored")
        self._firewall_checked = now

    async def _refill(self) -> None:
        for kind, low in self.config.free_low.items():
            if len(self._free[kind]) >= low:
                continue
            while not self._full(kind):
                made = await self._make(kind)
                if self._full(kind):  # one was given back meanwhile
                    self._discard(made)
                else:
                    self._free[kind].append(made)

    async def _destroy_batch(self) -> None:
        names = list(self._dirty)[:DESTROY_BATCH_MAX]
        await self._in_slow(self._maker.destroy, names)
        for name in names:
            self._dirty.remove(name)
        self._count("destroyed", len(names))

    async def _apply_firewall(self) -> None:
        await nft.apply(nft.render(self.config.tag, self.config.pool, host_is_router=self._router))

    async def _leave_host(self) -> None:
        await nft.remove(self.config.tag)
        await self._in_slow(host.leave, self.config.tag, self.config.pool)

    def _count(self, name: str, by: int = 1) -> None:
        self._counts = replace(self._counts, **{name: getattr(self._counts, name) + by})

    def _opened(self) -> NetlinkSocket:
        if self._host is None:
            raise Unavailable("the network pool is not open")
        return self._host

    async def _in_fast(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _finish(self._fast, function, *args, **kwargs)

    async def _in_slow(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _finish(self._slow, function, *args, **kwargs)

    def _shut_threads(self) -> None:
        for executor in (self._fast, self._slow):
            if executor is not None:
                executor.shutdown(wait=True)
        for inner in self._inner.values():
            inner.close()
        self._inner.clear()
        if self._host is not None:
            self._host.close()
        self._fast = self._slow = self._host = None


async def _finish(
    executor: ThreadPoolExecutor | None, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Runs on a thread; when cancelled, waits for the thread first: nobody cleans up after work still going on."""
    if executor is None:
        raise Unavailable("the network pool is not open")
    future = asyncio.get_running_loop().run_in_executor(executor, lambda: function(*args, **kwargs))
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        if (
            not future.cancelled()
            and future.exception() is None
            and isinstance(made := future.result(), FreeSlot)
        ):
            made.close()
        raise
