from __future__ import annotations

from pathlib import Path

import pytest

from midge.bench.errors import CannotMeasure
from midge.bench.floor.container import bare
from midge.bench.floor.qemu import picture
from midge.bench.image import COMMAND
from midge.drivers.container.spec import INIT_PATH
from midge.drivers.qemu.command import Descriptors, Hardware, command
from midge.machine.spec import Shape

FDS = Descriptors(channel=9, qmp=5, memory=6, lower=7, upper=8, tap=10)
HARDWARE = Hardware(shape=Shape(), acceleration="tcg", cpu_model="max")
MAC = "02:4d:00:00:00:07"


def test_descriptors_are_found_in_what_the_driver_writes() -> None:
    words = command("qemu", HARDWARE, FDS, boot=None, mac=MAC)
    numbers, mac = picture(words)
    assert numbers == {"memory": 6, "qmp": 5, "control": 9, "lower": 7, "upper": 8, "tap": 10}
    assert mac == MAC


def test_a_command_line_that_is_not_known_is_no_floor() -> None:
    with pytest.raises(CannotMeasure, match="tap"):
        picture([word for word in command("qemu", HARDWARE, FDS, boot=None, mac=MAC) if "tap" not in word])


def test_a_bare_bundle_runs_the_process_itself() -> None:
    config = {
        "process": {"args": [INIT_PATH], "env": []},
        "root": {"path": "/x"},
        "mounts": [{"destination": INIT_PATH}, {"destination": "/proc"}],
        "linux": {"namespaces": [{"type": "network", "path": "/old"}, {"type": "pid"}], "cgroupsPath": "/m"},
    }
    bare(config, netns=Path("/proc/1/ns/net"), root=Path("/root"))
    assert config["process"]["args"] == list(COMMAND)  # type: ignore[index, call-overload]  # a document
    assert config["mounts"] == [{"destination": "/proc"}]
    assert config["linux"]["namespaces"][0]["path"] == "/proc/1/ns/net"  # type: ignore[index, call-overload]  # same
