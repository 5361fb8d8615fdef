"""Real processes in real groups, in each kind of hierarchy this host has."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from midge.cgroup import Cgroup, CgroupTree, Limits
from midge.cgroup.tree import CGROUP_ROOT
from midge.errors import DeadlineExceeded
from midge.sys.leaks import diff, snapshot
from tests.deadlines import PATIENCE_S

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root"),
]

# The hybrid layout has a unified hierarchy without controllers beside the legacy ones.
ROOTS = [root for root in (CGROUP_ROOT, CGROUP_ROOT / "unified") if (root / "cgroup.procs").exists()]
if not (CGROUP_ROOT / "cgroup.controllers").exists():
    ROOTS.insert(0, CGROUP_ROOT)

LOOK_S = 0.2  # in which a busy process uses some time, however many there are

ENTER = "import os, sys\nfor f in sys.argv[2:]: open(f, 'w').write(str(os.getpid()))\nexec(sys.argv[1])"


@pytest.fixture(params=ROOTS, ids=str)
async def tree(request: pytest.FixtureRequest) -> AsyncIterator[CgroupTree]:
    parent = f"midge-test-{secrets.token_hex(3)}"
    before = snapshot([parent])
    tree = CgroupTree(request.param, parent=parent)
    tree.open()
    yield tree
    await tree.sweep(())
    tree.close()
    assert diff(before, snapshot([parent])) == []


@contextmanager
def running(group: Cgroup, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that enters the group before it does anything else, and has when this yields."""
    files = [str(file) for file in group.procs_files()]
    command = [sys.executable, "-c", ENTER, f"print(flush=True)\n{program}", *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


async def stands_still(group: Cgroup) -> None:
    """The kernel calls a process frozen that has a few instructions left before it gives its processor up."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            used = group.cpu_usage_ns()
            await asyncio.sleep(LOOK_S)
            if group.cpu_usage_ns() == used:
                return


@pytest.mark.anyio
async def test_a_launcher_enters_and_everything_it_forks_is_killed(tree: CgroupTree) -> None:
    group = tree.create("m1", Limits())
    with running(
        group, "import os, signal\nfor _ in range(3): os.fork()\nprint(flush=True); signal.pause()"
    ) as process:
        assert process.stdout is not None
        for _ in range(8):
            process.stdout.readline()
        assert len(group.pids()) == 8
        with pytest.raises(DeadlineExceeded, match="busy"):
            await group.remove(timeout_s=0.01)
        await group.kill_all()
        assert process.wait() == -9
        assert group.pids() == set()
    await group.remove()
    await group.remove()
    assert tree.names() == []


@pytest.mark.anyio
async def test_a_frozen_group_stands_still_and_can_be_killed(tree: CgroupTree) -> None:
    group = tree.create("m1", Limits())
    with running(group, "while True: pass") as process:
        await group.freeze()
        await stands_still(group)
        group.thaw()
        await group.freeze()
        await group.kill_all()
        assert process.wait() == -9


@pytest.mark.anyio
async def test_processor_time_is_counted(tree: CgroupTree) -> None:
    group = tree.create("m1", Limits())
    program = (
        "import time\nwhile time.process_time() < .1: pass\nprint(flush=True)\nimport signal; signal.pause()"
    )
    with running(group, program) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert group.cpu_usage_ns() > 50_000_000
        await group.kill_all()


@pytest.mark.anyio
async def test_too_much_memory_is_an_oom_kill_and_is_counted(tree: CgroupTree) -> None:
    if "memory" not in tree.controllers:
        pytest.skip("this hierarchy has no memory controller")
    group = tree.create("m1", Limits(memory_bytes=48 << 20))
    assert group.oom_kills() == 0
    with running(group, "x = bytearray(200 << 20)\nfor n in range(0, len(x), 4096): x[n] = 1") as process:
        assert process.wait() == -9
    assert group.oom_kills() == 1
    assert group.memory_usage() < 48 << 20


@pytest.mark.anyio
async def test_too_many_processes_are_refused(tree: CgroupTree) -> None:
    if "pids" not in tree.controllers:
        pytest.skip("this hierarchy has no pids controller")
    group = tree.create("m1", Limits(pids_max=2))
    fork = "try: os.fork()\nexcept OSError as e: print(e.errno, flush=True)"
    program = f"import os, signal\nos.fork() or signal.pause()\n{fork}"
    with running(group, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"11\n"
        await group.kill_all()


@pytest.mark.anyio
async def test_a_sweep_takes_what_nobody_knows_with_its_processes(tree: CgroupTree) -> None:
    known, stray = tree.create("known", Limits()), tree.create("stray", Limits())
    nested = [path / "inner" for path in stray.paths]
    for path in nested:
        path.mkdir()
    with running(stray, "import signal; signal.pause()") as process:
        assert await tree.sweep({"known"}) == ["stray"]
        assert process.wait() == -9
    assert tree.names() == ["known"]
    assert known.exists()


@pytest.mark.anyio
async def test_another_handle_finds_the_same_group(tree: CgroupTree) -> None:
    tree.create("m1", Limits())
    again = CgroupTree(Path(tree.root), parent=tree.parent)
    again.open()
    assert again.names() == ["m1"]
    assert again.get("m1").exists()
