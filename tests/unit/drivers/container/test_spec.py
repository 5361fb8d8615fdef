"""config.json: what a container is given, and what it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from midge.drivers.container import seccomp
from midge.drivers.container.spec import INIT_PATH, MASKED_PATHS, Bundle, config

BUNDLE = Bundle(
    root=Path("/run/m/root"),
    overlay="lowerdir=/l/a:/l/b,upperdir=/u,workdir=/w",
    init=Path("/usr/lib/midge/midge-init"),
    hostname="box",
    netns=Path("/run/netns/mg-1"),
    cgroups_path="/midge/m",
    memory_mb=512,
    oom_score=500,
    nofile=1024,
    seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
)


def mounts(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["destination"]: mount for mount in document["mounts"]}


def test_the_root_is_the_first_mount() -> None:
    first = config(BUNDLE)["mounts"][0]
    assert (first["destination"], first["type"]) == ("/", "overlay")
    assert first["options"] == ["lowerdir=/l/a:/l/b", "upperdir=/u", "workdir=/w"]


def test_a_root_that_is_mounted_already_is_left_alone() -> None:
    assert "/" not in mounts(config(replace(BUNDLE, overlay=None)))


def test_init_is_bound_read_only_where_it_leaves_no_trace() -> None:
    document = config(BUNDLE)
    bound = mounts(document)[INIT_PATH]
    assert bound["source"] == "/usr/lib/midge/midge-init"
    assert {"bind", "ro", "nosuid", "nodev"} <= set(bound["options"])
    assert document["process"]["args"] == [INIT_PATH, "--container"]
    targets = list(mounts(document))
    assert targets.index("/dev") < targets.index(INIT_PATH)


def test_the_network_namespace_is_joined_or_made_empty() -> None:
    joined = {"type": "network", "path": "/run/netns/mg-1"}
    assert joined in config(BUNDLE)["linux"]["namespaces"]
    assert {"type": "network"} in config(replace(BUNDLE, netns=None))["linux"]["namespaces"]


def test_every_other_namespace_is_its_own() -> None:
    kinds = {one["type"] for one in config(BUNDLE)["linux"]["namespaces"]}
    assert kinds == {"network", "pid", "ipc", "uts", "mount", "cgroup"}


def test_the_capabilities_are_few_and_none_is_inheritable() -> None:
    capabilities = config(BUNDLE)["process"]["capabilities"]
    assert set(capabilities) == {"bounding", "effective", "permitted"}
    for dangerous in ("SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_TIME", "NET_ADMIN", "SYS_RAWIO", "BPF"):
        assert f"CAP_{dangerous}" not in capabilities["bounding"]


def test_set_user_id_programs_work() -> None:
    assert config(BUNDLE)["process"]["noNewPrivileges"] is False


def test_no_device_is_allowed_but_the_runtimes_own() -> None:
    assert config(BUNDLE)["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]


def test_paths_of_the_kernel_are_hidden_or_read_only() -> None:
    linux = config(BUNDLE)["linux"]
    assert linux["maskedPaths"] == list(MASKED_PATHS)
    assert "/proc/sys" in linux["readonlyPaths"]
    for target in ("/sys", "/sys/fs/cgroup"):
        assert "ro" in mounts(config(BUNDLE))[target]["options"]


def test_shared_memory_is_half_of_the_memory_but_not_less_than_programs_expect() -> None:
    assert "size=256m" in mounts(config(BUNDLE))["/dev/shm"]["options"]
    assert "size=64m" in mounts(config(replace(BUNDLE, memory_mb=64)))["/dev/shm"]["options"]


def test_nothing_of_the_machines_own_process_is_in_it() -> None:
    assert config(BUNDLE)["process"]["env"] == ["MIDGE_CONTROL_FD=3"]


def denied(profile: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    rules: dict[str, list[dict[str, Any]]] = {}
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            rules.setdefault(name, []).append(rule)
    return rules


def test_calls_that_reach_the_shared_kernel_are_denied() -> None:
    profile = seccomp.profile("x86_64")
    assert profile is not None
    for name in ("kexec_load", "init_module", "clock_settime", "bpf", "keyctl", "open_by_handle_at", "mount"):
        assert denied(profile)[name][0]["action"] == "SCMP_ACT_ERRNO"
        assert "args" not in denied(profile)[name][0]


def test_new_namespaces_are_denied_and_plain_processes_are_not() -> None:
    profile = seccomp.profile("x86_64")
    assert profile is not None
    bits = [rule["args"][0] for rule in denied(profile)["clone"]]
    assert all(bit["op"] == "SCMP_CMP_MASKED_EQ" and bit["value"] == bit["valueTwo"] for bit in bits)
    # include/uapi/linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
    assert sum(bit["value"] for bit in bits) == 0x7E020000
    assert denied(profile)["clone3"][0]["errnoRet"] == 38


def test_an_unknown_architecture_has_no_profile() -> None:
    assert seccomp.profile("vax") is None
