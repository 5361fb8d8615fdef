"""A machine from its start to its end: what its process sees, and how its end is reported."""

from __future__ import annotations

import asyncio

import pytest

from midge.errors import MidgeError
from midge.machine.spec import FileSpec
from tests.contract.drivers.kit import RUNS, Kit, Marks, Program, WarmKit, exits

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.mark.parametrize("code", [0, 7, 255])
async def test_a_process_that_ends_reports_its_code(kit: Kit, code: int) -> None:
    status, _ = await kit.run(kit.spec(exits(code)))
    assert (status.exit_code, status.guest_exit_code, status.guest_signal) == (code, code, -1)
    assert not status.oom_killed


async def test_a_process_that_a_signal_ends_reports_it(kit: Kit) -> None:
    program = Program("kill -SEGV $$", {"exit_after_ms": 0, "exit_signal": 11})
    status, _ = await kit.run(kit.spec(program))
    assert (status.exit_code, status.guest_signal) == (139, 11)


async def test_the_exit_can_be_waited_for_again(kit: Kit) -> None:
    handle = await kit.start(kit.spec(exits(3)))
    assert await kit.wait(handle) == await kit.wait(handle)


async def test_all_output_is_in_the_log_when_the_exit_is_known(kit: Kit) -> None:
    lines = "".join(f"{n}\n" for n in range(200))
    _, log = await kit.run(kit.spec(exits(output=lines)))
    assert log.splitlines() == [str(n) for n in range(200)]


async def test_much_output_on_both_streams_is_complete_and_in_order(real: Kit) -> None:
    spec = real.spec(Program("seq 1 20000 & seq 20001 40000 >&2; wait; printf end"))
    _, _ = await real.run(spec)
    assert real.log(spec, "stdout") == "".join(f"{n}\n" for n in range(1, 20001)) + "end"
    assert real.log(spec, "stderr") == "".join(f"{n}\n" for n in range(20001, 40001))


async def test_the_environment_is_given_in_its_order(real: Kit) -> None:
    env = [("ZZ", "1"), ("AA", "with = and\nline"), ("PATH", "/bin"), ("HOME", "/tmp")]
    _, log = await real.run(real.spec(Program("xargs -0 printf '%s;' < /proc/$$/environ"), env=env))
    assert log.startswith("ZZ=1;AA=with = and\nline;PATH=/bin;HOME=/tmp;")


async def test_working_directory_and_user_are_set(real: Kit) -> None:
    spec = real.spec(
        Program("pwd; id -u; id -g; touch own; stat -c %u:%g own"), cwd="/tmp", user="65534:65534"
    )
    _, log = await real.run(spec)
    assert log.split() == ["/tmp", "65534", "65534", "65534:65534"]


async def test_the_users_name_is_looked_up_in_the_image(real: Kit) -> None:
    _, log = await real.run(real.spec(Program("id -u"), user="nobody"))
    assert log.split() == ["65534"]


async def test_files_are_written_before_the_process_runs(real: Kit) -> None:
    data = bytes(range(256)) * 1000
    files = [FileSpec(path="/srv/deep/blob", data=data, mode=0o600), FileSpec(path="/etc/motd", data=b"hi\n")]
    script = "wc -c < /srv/deep/blob; stat -c %a /srv/deep/blob; cat /etc/motd"
    _, log = await real.run(real.spec(Program(script), files=files))
    assert log.split() == ["256000", "600", "hi"]


async def test_the_machine_knows_its_name_and_neighbours(real: Kit) -> None:
    spec = real.spec(
        Program("hostname; cat /etc/hostname; grep friend /etc/hosts; cat /etc/resolv.conf"),
        hostname="box",
        hosts=[("192.0.2.9", ["friend", "friend.internal"])],
        searches=["internal"],
    )
    _, log = await real.run(spec)
    assert log.splitlines()[:2] == ["box", "box"]
    assert "192.0.2.9\tfriend friend.internal" in log
    assert "nameserver 192.0.2.53\nsearch internal\n" in log


async def test_own_nameservers_take_the_place_of_the_hosts(real: Kit) -> None:
    _, log = await real.run(real.spec(Program("cat /etc/resolv.conf"), nameservers=["192.0.2.1"]))
    assert log == "nameserver 192.0.2.1\n"


async def test_a_terminal_is_one(real: Kit) -> None:
    _, log = await real.run(real.spec(Program("test -t 0 && test -t 1 && tty"), tty=True))
    assert log.startswith("/dev/pts/")


async def test_devices_and_shared_memory_are_there(real: Kit) -> None:
    script = "echo x > /dev/null; head -c 4 /dev/urandom | wc -c; echo y > /dev/shm/f; cat /dev/shm/f"
    script += "; echo z > /dev/stdout"
    _, log = await real.run(real.spec(Program(script)))
    assert log.split() == ["4", "y", "z"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["/nonexistent"], 127),
        (["nonexistent"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
        ([], 125),
    ],
)
async def test_a_command_that_cannot_be_executed_has_run_and_ended(
    real: Kit, argv: list[str], code: int
) -> None:
    spec = real.spec(argv=argv)
    status, _ = await real.run(spec)
    assert status.exit_code == code
    assert status.error
    assert real.log(spec, "stderr")


async def test_an_unknown_user_is_reported_the_same_way(real: Kit) -> None:
    status, _ = await real.run(real.spec(Program("true"), user="nobody-knows"))
    assert status.exit_code == 125
    assert "nobody-knows" in status.error


async def test_each_start_begins_with_the_images_files(real: Kit) -> None:
    spec = real.spec(Program("ls /srv 2>/dev/null; mkdir /srv && touch /srv/mine && rm /bin/vi && echo done"))
    for _ in range(2):
        status, log = await real.run(spec)
        assert (status.exit_code, log) == (0, "done\n" * (log.count("done")))
        await real.driver.cleanup(spec.machine_id, None)
        spec = real.again(spec)
    assert log == "done\ndone\n"


async def test_the_same_start_is_adopted_not_repeated(kit: Kit) -> None:
    spec = kit.spec(RUNS)
    first = await kit.start(spec)
    await kit.begun(spec)
    await kit.renew()
    assert await kit.start(spec) == first
    assert kit.log(spec).count("begun") == 1
    await kit.driver.kill(first)
    assert (await kit.wait(first)).exit_code == 137


async def test_a_start_removes_what_another_start_left(kit: Kit) -> None:
    old = kit.spec(RUNS)
    await kit.start(old)
    await kit.begun(old)
    await kit.renew()
    handle = await kit.start(kit.again(old))
    await kit.driver.kill(handle)
    assert (await kit.wait(handle)).exit_code == 137
    await kit.driver.cleanup(old.machine_id, handle)


async def test_two_machines_run_at_once_and_do_not_meet(kit: Kit) -> None:
    one, two = kit.spec(RUNS), kit.spec(RUNS)
    handles = await asyncio.gather(kit.start(one), kit.start(two))
    await kit.begun(two)
    await kit.driver.kill(handles[0])
    assert (await kit.wait(handles[0])).exit_code == 137
    await kit.driver.signal(handles[1], 15)
    assert (await kit.wait(handles[1])).exit_code == 0


async def test_the_phases_of_a_start_are_marked(real: Kit) -> None:
    marks = Marks()
    spec = real.spec(RUNS)
    await real.driver.prepare(spec)
    if isinstance(real, WarmKit):
        await real.waiting(spec)
    await real.driver.start(spec, marks)
    assert marks.phases[-3:] == ["handshake", "mounts", "exec"]
    assert len(marks.phases) > 3 and "guest" not in marks.phases
    assert ("slot" in marks.phases) == isinstance(real, WarmKit)


async def test_a_missing_image_is_an_error_that_says_so(real: Kit) -> None:
    spec = real.spec(RUNS)
    image = type(spec.image)(digest="sha256:" + "0" * 64, reference="gone")
    with pytest.raises(MidgeError, match="image"):
        await real.driver.start(real.spec(RUNS, image=image), Marks())
