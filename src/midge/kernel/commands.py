"""Runs the host's tools: no shell, a deadline, and errors that quote what the tool said."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from midge.errors import DeadlineExceeded, MidgeError, NotSupported, Unavailable

# Characters of a failed tool's output shown with the error: its last words, not its life story.
_TAIL_CHARS = 2000
# A line longer than this is cut by asyncio's reader; compilers stay far below.
_LINE_BYTES_MAX = 1 << 20


async def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
    hint: str = "",
) -> str:
    """Runs a program to its end and returns its standard output and error, merged.

    Its whole process group is killed if the deadline passes or the caller is cancelled.

    Args:
        env: variables in addition to the caller's own; messages are always in English.
        on_line: called with each line as it comes.

    Raises:
        NotSupported: the program is not installed.
        DeadlineExceeded: it took longer than `timeout_s`.
        Unavailable: it failed; the message ends with its last words.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            limit=_LINE_BYTES_MAX,
        )
    except FileNotFoundError as error:
        raise NotSupported(f"program {argv[0]} is not installed", hint=hint) from error
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for raw in process.stdout:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                lines.append(line)
                if on_line is not None:
                    on_line(line)
            code = await process.wait()
    except TimeoutError as error:
        raise DeadlineExceeded(f"{argv[0]} did not end within {timeout_s:.0f} s", hint=hint) from error
    finally:
        await _end(process)
    output = "\n".join(lines)
    if code != 0:
        raise failure(argv, code, output, hint)
    return output


def failure(argv: Sequence[str], code: int, output: str, hint: str) -> MidgeError:
    command = " ".join(argv[:4])
    return Unavailable(f"`{command}` failed with {code}: {output[-_TAIL_CHARS:].strip()}", hint=hint)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
