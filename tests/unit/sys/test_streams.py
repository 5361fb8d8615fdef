from __future__ import annotations

import os
import subprocess
import sys

import pytest

PARENT = """
import os, sys
program, script, *closed = sys.argv[1:]
for number in closed:
    os.close(int(number))
os.execv(program, [program, "-c", script])
"""
SCRIPT = """
import os, sys
from midge.sys.streams import ensure_standard_streams
ensure_standard_streams()
file = os.open("/dev/zero", os.O_RDONLY)
assert file > 2, file
print("out")
print("err", file=sys.stderr)
assert sys.stdin.read() == "", "not empty"
assert all(os.get_inheritable(number) for number in range(3))
"""


@pytest.mark.parametrize("closed", [(), (0,), (1,), (2,), (0, 1, 2)])
def test_no_file_gets_the_number_of_a_stream_that_was_closed(closed: tuple[int, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARENT, sys.executable, SCRIPT, *map(str, closed)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if 1 in closed else "out\n")
    assert done.stderr == ("" if 2 in closed else "err\n")
