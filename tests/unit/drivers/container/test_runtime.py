"""The runtime's command line, its messages, and exits it does not explain."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from midge.cgroup import Cgroup
from midge.drivers.container import runtime
from midge.drivers.container.launch import launch_error, runtime_message
from midge.drivers.container.run import with_oom
from midge.drivers.container.runtime import Runtime
from midge.errors import DriverError, NotSupported, OutOfSpace
from midge.machine.spec import ExitStatus

PLACES = (Path("/b"), Path("/s"), Path("/p"))


def make(kind: runtime.Kind, sealed: int | None = None) -> Runtime:
    return Runtime(kind=kind, path=Path(f"/usr/bin/{kind}"), sealed=sealed, version="")


def test_the_words_of_runc() -> None:
    words = make("runc").command("m", *PLACES)
    expected = "/usr/bin/runc --root /s run --detach --pid-file /p --bundle /b --preserve-fds=1 m"
    assert " ".join(words) == expected


def test_a_sealed_runtime_is_executed_by_its_descriptor() -> None:
    sealed = make("crun", 17)
    assert sealed.command("m", *PLACES)[0] == "/proc/self/fd/17"
    assert sealed.pass_fds == (17,)


def test_gvisor_passes_descriptors_its_own_way_and_mounts_no_overlay() -> None:
    assert "--pass-fd=3:3" in make("runsc").command("m", *PLACES)
    assert not make("runsc").mounts_overlay


@pytest.mark.parametrize(
    ("path", "kind"), [("/usr/bin/runc", "runc"), ("/opt/crun-1.20", "crun"), ("/x/runsc.sh", "runsc")]
)
def test_runtimes_are_known_by_name(path: str, kind: str) -> None:
    assert runtime.kind_of(path) == kind


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["no-such-runtime", "true"])
async def test_what_is_no_runtime_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(NotSupported) as caught:
        await runtime.find(name)
    assert caught.value.hint


@pytest.mark.anyio
async def test_the_sealed_copy_cannot_be_written(tmp_path: Path) -> None:
    program = tmp_path / "runc"
    program.write_bytes(Path("/bin/echo").read_bytes())
    program.chmod(0o755)
    found = await runtime.find(str(program))
    try:
        assert found.version == "--version" or "echo" in found.version
        if found.sealed is None:
            pytest.skip("this kernel executes nothing from memory")
        assert found.sealed >= 16
        with pytest.raises(PermissionError):
            os.write(found.sealed, b"x")
        assert fcntl.fcntl(found.sealed, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
    finally:
        found.close()


def test_the_last_error_of_a_log_is_the_message() -> None:
    text = (
        'launcher failed: time="2026-01-01T00:00:00Z" level=warning msg="odd"\n'
        'time="2026-01-01T00:00:00Z" level=error msg="runc run failed: exec \\"x\\": no such file"\n'
    )
    assert runtime_message(text) == 'runc run failed: exec "x": no such file'
    assert runtime_message("plain\n  words") == "plain words"


@pytest.mark.parametrize(
    ("words", "kind"), [("mkdir /x: no space left on device", OutOfSpace), ("boom", DriverError)]
)
def test_a_container_that_did_not_come_up_says_why(tmp_path: Path, words: str, kind: type[Exception]) -> None:
    (tmp_path / "ended.json").write_text(
        f'{{"exit_code": 1, "signal": null, "error": "launcher failed: {words}", "ended_at_ns": 1}}'
    )
    error = launch_error("m", tmp_path)
    assert isinstance(error, kind)
    assert words in str(error)


def test_without_a_word_that_is_said() -> None:
    assert "said nothing" in str(launch_error("m", Path("/nonexistent")))


@pytest.fixture
def cgroup(tmp_path: Path) -> Cgroup:
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 1\n")
    return Cgroup("m", 2, {"memory": tmp_path})


def test_a_death_by_kill_where_memory_ran_out_was_for_that(cgroup: Cgroup) -> None:
    assert with_oom(ExitStatus(exit_code=137, signal=9), cgroup).oom_killed


def test_other_ends_are_not(cgroup: Cgroup, tmp_path: Path) -> None:
    assert not with_oom(ExitStatus(exit_code=0), cgroup).oom_killed
    nowhere = Cgroup("m", 2, {"memory": tmp_path / "gone"})
    assert not with_oom(ExitStatus(exit_code=137, signal=9), nowhere).oom_killed
