"""How long a container takes from the decision to start until its first byte is out: the driver against bare runc.

Bare runc runs the very configuration the driver writes (same layers, namespaces, filter, control groups, network
namespace), with the command in place of midge-init and a pipe to read from. Both take turns, so that a busy host slows
both. Needs root, runc, busybox and the built binaries.

    python bench/container_start.py [--runs 30] [--budget 1.6]

Ends with 1 when the driver's median is more than BUDGET times the runtime's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from midge.cgroup import CgroupTree
from midge.drivers.container import ContainerDriver, ContainerSettings
from midge.images.store import ImageStore
from midge.machine.spec import ImageSpec, MachineSpec, NetworkSpec, Shape
from midge.net.config import NetConfig
from midge.net.naming import machine_mac
from midge.net.pool import NetPool
from midge.testing.images import busybox_image

SUBNET = IPv4Network("10.251.0.0/24")
COMMAND = ["/bin/busybox", "echo", "hello"]
FREE_SLOTS = 8
SETTLE_S = 0.1  # between runs: what is destroyed in the background does not run into the next one


@dataclass(slots=True)
class Trace:
    """Milliseconds of each phase."""

    last: float = field(default_factory=time.perf_counter)
    phases: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] = (now - self.last) * 1000
        self.last = now


@dataclass(frozen=True, slots=True)
class Bench:
    driver: ContainerDriver
    image: ImageSpec
    home: Path
    runtime: str

    def spec(self, number: int) -> MachineSpec:
        ip = SUBNET[10 + number % 200]
        log = self.home / "logs" / f"{number}.log"
        log.parent.mkdir(exist_ok=True)
        return MachineSpec(
            machine_id=f"b{number}",
            app="bench",
            name="bench",
            version="1",
            start_id=f"s{number}",
            image=self.image,
            shape=Shape(),
            hostname="bench",
            argv=COMMAND,
            env=[("PATH", "/bin")],
            cwd="/",
            network=NetworkSpec(ipv4=str(ip), mac=machine_mac(ip)),
            log_path=str(log),
        )

    async def driver_once(self, number: int) -> tuple[float, float, dict[str, float]]:
        """Milliseconds to the first byte, to the return of `start`, and of its phases."""
        spec = self.spec(number)
        await self.driver.prepare(spec)
        begun_ns, trace = time.time_ns(), Trace()
        handle = await self.driver.start(spec, trace)
        returned_ns = time.time_ns()
        await self.driver.wait(handle)
        first_ns = _time_ns(Path(spec.log_path).read_text().split()[0])
        if not (self.home / "config.json").exists():
            shutil.copy(self.home / "run" / spec.machine_id / "config.json", self.home / "config.json")
        await self.driver.cleanup(spec.machine_id, handle)
        return (first_ns - begun_ns) / 1e6, (returned_ns - begun_ns) / 1e6, trace.phases

    def bare_once(self, number: int) -> float:
        """Milliseconds from the spawn of the runtime to the first byte."""
        name = f"bare{number}"
        bundle = self.home / name
        for folder in ("root", "upper", "work"):
            (bundle / folder).mkdir(parents=True)
        config = json.loads((self.home / "config.json").read_bytes())
        (bundle / "config.json").write_text(json.dumps(_bare(config, bundle, name)))
        begun = time.perf_counter()
        with subprocess.Popen(
            [self.runtime, "--root", str(bundle / "state"), "run", "--bundle", str(bundle), name],
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.read(1)
            took = (time.perf_counter() - begun) * 1000
        shutil.rmtree(bundle)
        return took


def _bare(config: dict[str, Any], bundle: Path, name: str) -> dict[str, Any]:
    """The driver's configuration with the command in place of init, its own layer and no foreign namespace."""
    config["process"]["args"] = COMMAND
    config["root"]["path"] = str(bundle / "root")
    options = [o for o in config["mounts"][0]["options"] if not o.startswith(("upperdir=", "workdir="))]
    config["mounts"][0]["options"] = [*options, f"upperdir={bundle}/upper", f"workdir={bundle}/work"]
    # The driver's slot is gone by now; to join the host's namespace costs what it costs to join any.
    config["linux"]["namespaces"][0]["path"] = f"/proc/{os.getpid()}/ns/net"
    config["linux"]["cgroupsPath"] = str(Path(config["linux"]["cgroupsPath"]).with_name(name))
    return config


def _time_ns(stamp: str) -> int:
    """RFC 3339 with nine digits, in UTC."""
    whole, digits = stamp.rstrip("Z").split(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds * 1_000_000_000 + int(digits.ljust(9, "0"))


@asynccontextmanager
async def bench(runtime: str) -> AsyncIterator[Bench]:
    tag = secrets.token_hex(3)
    home = Path(tempfile.mkdtemp(prefix="midge-bench-"))
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        images = await stack.enter_async_context(ImageStore(home / "images"))
        [image] = await images.import_path(busybox_image(home / "layout"))
        net = await stack.enter_async_context(
            NetPool(NetConfig(tag=tag, pool=SUBNET, free_low={"veth": 4}, free_high={"veth": FREE_SLOTS}))
        )
        cgroups = CgroupTree(parent=f"midge-bench-{tag}")
        cgroups.open()
        stack.callback(cgroups.close)
        settings = ContainerSettings(rundir=home / "run", machines=home / "machines", runtime=runtime)
        driver = ContainerDriver(settings, images=images, net=net, cgroups=cgroups)
        await driver.open()
        stack.push_async_callback(driver.aclose)
        yield Bench(driver, ImageSpec(digest=image.digest, reference="busybox"), home, runtime)


def line(name: str, values: list[float]) -> str:
    ordered = sorted(values)
    p90 = ordered[int(len(ordered) * 0.9)]
    return f"{name:24} p50 {statistics.median(ordered):6.1f}  p90 {p90:6.1f}  min {ordered[0]:6.1f} ms"


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--runtime", default="runc")
    parser.add_argument("--budget", type=float, default=1.6)
    options = parser.parse_args()
    bare: list[float] = []
    firsts: list[float] = []
    returns: list[float] = []
    phases: dict[str, list[float]] = {}
    async with bench(options.runtime) as one:
        await one.driver_once(0)
        for number in range(1, options.runs + 1):
            await asyncio.sleep(SETTLE_S)
            bare.append(await asyncio.to_thread(one.bare_once, number))
            await asyncio.sleep(SETTLE_S)
            first, returned, marked = await one.driver_once(number)
            firsts.append(first)
            returns.append(returned)
            for phase, took in marked.items():
                phases.setdefault(phase, []).append(took)
    print(line(f"bare {options.runtime}, first byte", bare))
    print(line("driver, first byte", firsts))
    print(line("driver, start returns", returns))
    for phase, values in phases.items():
        print(line(f"  {phase}", values))
    ratio = statistics.median(firsts) / statistics.median(bare)
    quiet = min(firsts) / min(bare)
    print(f"driver / bare: {ratio:.2f} (budget {options.budget}), of the quickest runs {quiet:.2f}")
    return 0 if ratio <= options.budget else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
