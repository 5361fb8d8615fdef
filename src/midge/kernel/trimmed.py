"""Builds Midge's own kernel from the distribution's kernel source and `trimmed.config`.

Same source, configuration and compiler give the same image: time, user and host of the build are fixed, and the
modules' signing keys that make other builds unique are not there.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from midge.errors import InvalidInput, NotFound
from midge.kernel import image, kconfig
from midge.kernel.commands import run
from midge.kernel.debian import KernelFiles
from midge.kernel.store import Kernel, KernelStore

# Where Debian's and Ubuntu's linux-source packages put their archives.
_SOURCE_PATTERNS = ("linux-source-6.1.tar.*", "linux-source-*.tar.*", "linux-source-*/linux-source-*.tar.*")
_SOURCE_ROOT = Path("/usr/src")
_SOURCE_HINT = "apt-get install linux-source-6.1 bc bison flex gcc make libelf-dev xz-utils"

# Six minutes on two free cores; a loaded machine gets its time, a hung build ends.
_BUILD_TIMEOUT_S = 2 * 3600.0
_UNPACK_TIMEOUT_S = 900.0
_CONFIGURE_TIMEOUT_S = 600.0

# One progress report for so many of make's lines, of which a build prints some two thousand.
_LINES_A_REPORT = 100

_REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "midge",
    "KBUILD_BUILD_HOST": "midge",
    "KBUILD_BUILD_VERSION": "1",
}


def fragment() -> str:
    """The configuration this kernel is made of."""
    return (resources.files("midge.kernel") / "trimmed.config").read_text()


async def build_trimmed(
    store: KernelStore,
    *,
    init_binary: Path,
    source: Path | None = None,
    scratch: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Kernel:
    """Builds the kernel, adds it to the store, and returns it with this init.

    Args:
        source: a kernel source archive, or its unpacked tree; by default the newest linux-source package installed.
            Versions other than 6.1 may lack options of the fragment and are then refused.
        scratch: directory to build in, which needs some 3 GB; by default one under $TMPDIR that is removed afterwards.
        jobs: compilers at a time; by default one for each processor.
        progress: called with lines fit for a terminal.

    Raises:
        NotFound: there is no kernel source.
        InvalidInput: the configuration did not come out as the fragment says; the message names the options.
        MidgeError: a tool is missing, failed, or ran out of time; the message has its last words.
    """
    archive = source or find_source()
    if scratch is not None:
        scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="midge-kernel-build-", dir=scratch) as temporary:
        tree, output = await unpack(archive, Path(temporary), progress)
        progress("configuring")
        await configure(tree, output)
        progress("compiling; this takes some six minutes on two processors")
        await _compile(tree, output, jobs or os.cpu_count() or 1, progress)
        files = await asyncio.to_thread(_read_result, output)
    await store.add(files, "trimmed", needs_acpi=False)
    kernel = await store.ensure("trimmed", init_binary=init_binary)
    progress(f"kernel {kernel.version} is {kernel.id}")
    return kernel


def find_source(root: Path = _SOURCE_ROOT) -> Path:
    """The archive of an installed linux-source package.

    Raises:
        NotFound: none is installed.
    """
    for pattern in _SOURCE_PATTERNS:
        found = sorted(path for path in root.glob(pattern) if path.is_file())
        if found:
            return found[-1]
    raise NotFound(f"no kernel source in {root}", hint=_SOURCE_HINT)


async def unpack(source: Path, directory: Path, progress: Callable[[str], None]) -> tuple[Path, Path]:
    """Source tree and an empty output directory beside it."""
    output = directory / "output"
    output.mkdir()
    if source.is_dir():
        return source, output
    progress(f"unpacking {source}")
    tree = directory / "source"
    tree.mkdir()
    argv = ["tar", "-xf", str(source), "-C", str(tree), "--strip-components=1"]
    await run(argv, timeout_s=_UNPACK_TIMEOUT_S, hint=_SOURCE_HINT)
    return tree, output


async def configure(tree: Path, output: Path) -> None:
    wanted = fragment()
    given = output / "midge.config"
    given.write_text(wanted)
    await _make(
        tree,
        output,
        "allnoconfig",
        timeout_s=_CONFIGURE_TIMEOUT_S,
        variables={"KCONFIG_ALLCONFIG": str(given)},
    )
    await _make(tree, output, "olddefconfig", timeout_s=_CONFIGURE_TIMEOUT_S)
    check(wanted, (output / ".config").read_text())


def check(wanted: str, result: str) -> None:
    """Compares the fragment with the .config made from it.

    Raises:
        InvalidInput: options were dropped or changed; the message names each.
    """
    lost = kconfig.dropped(kconfig.parse(wanted), kconfig.parse(result))
    if lost:
        raise InvalidInput(
            f"this kernel source dropped {len(lost)} options: {', '.join(lost)}",
            hint="use the source of Linux 6.1, or adapt src/midge/kernel/trimmed.config to this version",
        )


async def _compile(tree: Path, output: Path, jobs: int, progress: Callable[[str], None]) -> None:
    count = 0

    def on_line(line: str) -> None:
        nonlocal count
        count += 1
        if count % _LINES_A_REPORT == 0:
            progress(f"{count:5d}  {line.strip()}")

    await _make(tree, output, f"-j{jobs}", "vmlinux", timeout_s=_BUILD_TIMEOUT_S, on_line=on_line)
    # Without its symbol table the image is smaller and loads quicker; an oops uses kallsyms.
    await run(
        ["strip", "--strip-all", "-o", str(output / "vmlinux.stripped"), str(output / "vmlinux")],
        timeout_s=_CONFIGURE_TIMEOUT_S,
        hint=_SOURCE_HINT,
    )


async def _make(
    tree: Path,
    output: Path,
    *words: str,
    timeout_s: float,
    variables: dict[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    await run(
        ["make", "-C", str(tree), f"O={output}", *words],
        env={**_REPRODUCIBLE, **(variables or {})},
        timeout_s=timeout_s,
        on_line=on_line,
        hint=_SOURCE_HINT,
    )


def _read_result(output: Path) -> KernelFiles:
    data = (output / "vmlinux.stripped").read_bytes()
    return KernelFiles(version=image.version_of(data), image=data, modules=())
