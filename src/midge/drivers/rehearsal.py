"""What a waiting guest may run before it is known whose it will be. Pure.

Only what every machine of the image has in common: the image's own command and a shell, with the image's own variables,
directory and user. A machine's configuration may hold secrets and is not looked at. The guest runs each up to its first
act, see `docs/design/003-warm-slots.md`.
"""

from __future__ import annotations

from midge.guest import messages as m
from midge.machine.spec import ImageSpec

SHELL = ("/bin/sh", "-c", ":")  # what commands and entry points begin with more often than with anything else
PROGRAM_BYTES_MAX = 65_536  # words and variables of a command; a longer one is not rehearsed


def programs(image: ImageSpec) -> tuple[m.Program, ...]:
    """The image's own command as its configuration has it, then a shell."""
    env = tuple(
        (name, value) for name, sep, value in (item.partition("=") for item in image.env) if name and sep
    )
    words = [(*image.entrypoint, *image.cmd), SHELL]
    found = [
        m.Program(argv=argv, env=env, user=image.user or None, cwd=image.working_dir or "/")
        for argv in dict.fromkeys(words)
        if argv and argv[0]
    ]
    return tuple(program for program in found if _size(program) <= PROGRAM_BYTES_MAX)


def _size(program: m.Program) -> int:
    return sum(map(len, program.argv)) + sum(len(name) + len(value) for name, value in program.env)
