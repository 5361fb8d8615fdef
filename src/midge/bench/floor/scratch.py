"""A directory of a floor, and running one program in it until its first byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from midge.bench.errors import CannotMeasure
from midge.bench.floor.base import FLOOR_TIMEOUT_S

ERROR_BYTES = 600


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="midge-bench-floor-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def first_byte_ms(
    words: Sequence[str], *, end: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> float:
    """From the spawn of a program to the first byte on its stdout; afterwards it is ended.

    Args:
        end: a command that ends what the program started, run before the program is killed.
        env: variables beside our own.

    Raises:
        CannotMeasure: it ended without a byte, or none came in FLOOR_TIMEOUT_S.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    with tempfile.TemporaryFile() as errors:
        try:
            loop.add_reader(read_end, readable.set)
            begun = perf_counter()
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=write_end, stderr=errors, env=_with(env)
            )
            os.close(write_end)
            write_end = -1
            try:
                async with asyncio.timeout(FLOOR_TIMEOUT_S):
                    await readable.wait()
                elapsed_ms = (perf_counter() - begun) * 1000
                if not os.read(read_end, 1):
                    errors.seek(0)
                    text = " ".join(errors.read(ERROR_BYTES).decode(errors="replace").split())
                    raise CannotMeasure(f"{words[0]} printed nothing: {text}")
                return elapsed_ms
            except TimeoutError as error:
                raise CannotMeasure(f"{words[0]} printed nothing in {FLOOR_TIMEOUT_S:g} s") from error
            finally:
                if end:
                    await run(*end, env=env)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            loop.remove_reader(read_end)
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)


async def run(*words: str, check: bool = False, env: Mapping[str, str] | None = None) -> str:
    """Runs a command to its end; its stdout. Raises CannotMeasure where `check` and it failed."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_with(env),
    )
    try:
        async with asyncio.timeout(FLOOR_TIMEOUT_S):
            output, errors = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if check and process.returncode != 0:
        text = " ".join(errors.decode(errors="replace").split())[:ERROR_BYTES]
        raise CannotMeasure(f"{' '.join(words[:3])} failed: {text}")
    return output.decode(errors="replace").strip()


def _with(env: Mapping[str, str] | None) -> dict[str, str] | None:
    return {**os.environ, **env} if env else None
