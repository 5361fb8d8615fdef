"""Executes a program with what careless parents leave it: `python hostile.py PROGRAM [ARGUMENT...]`.

All signals that can be ignored are, those of the C library too; standard input is closed; files are made for their
owner alone; hundreds of descriptors are open; a proxy is named that does not exist; there is no home, no terminal and
no language.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

import signals  # its neighbour: this file is executed

DESCRIPTORS = 300
PROXY = "http://127.0.0.1:9"
# SIGCHLD too: the kernel then reaps children itself, and nobody learns how they ended.
IGNORED = [n for n in range(1, signal.SIGRTMAX + 1) if n not in (signal.SIGKILL, signal.SIGSTOP)]


def main() -> None:
    for name in ("HOME", "LANG", "TERM", "USER", "LOGNAME", "no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = PROXY
    os.environ.update(LC_ALL="C", TZ="Pacific/Chatham", CI="true", COLUMNS="20")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    for _ in range(DESCRIPTORS):
        os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)
    os.umask(0o077)
    os.close(0)
    with signals.ignored(*IGNORED):
        os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
