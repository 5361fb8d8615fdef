"""What a driver keeps in a machine's run directory besides the shim's files.

run.json     which start this is, and what it holds: written before anything is launched
…            the shim's: see `midge.drivers.shim_files`
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from midge.errors import DriverError

RECORD_NAME = "run.json"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Which start a run directory belongs to.

    Attributes:
        slot: name of the network slot, empty if there is none.
        told: whether its guest may have been told to run the process. From then on the start is not repeated.
        data: whatever else the driver has to find again.
    """

    start_id: str
    slot: str = ""
    told: bool = False
    data: dict[str, Any] = {}


def fresh(rundir: Path) -> None:
    """An empty run directory, whatever was there before. Raises: OSError."""
    shutil.rmtree(rundir, ignore_errors=True)
    rundir.mkdir(parents=True, mode=0o700)


def write_record(rundir: Path, record: RunRecord) -> None:
    """Replaces the record at once. Not forced to disk: after a crash of the host nothing runs. Raises: OSError."""
    draft = rundir / f"{RECORD_NAME}.tmp"
    draft.write_bytes(msgspec.json.encode(record))
    draft.replace(rundir / RECORD_NAME)


def read_record(rundir: Path) -> RunRecord | None:
    """The record; None without a run directory, or where a start died before it wrote one."""
    try:
        return msgspec.json.decode((rundir / RECORD_NAME).read_bytes(), type=RunRecord)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except msgspec.MsgspecError as error:
        raise DriverError(f"{rundir / RECORD_NAME} is damaged") from error


@contextlib.contextmanager
def telling(rundir: Path) -> Iterator[None]:
    """Has on record, before it happens, that the guest is told to run.

    Only a DriverError within says that nothing ran, and the start may be repeated. Whoever is cancelled, or loses the
    guest, does not know: then the record stays.

    Raises:
        DriverError: there is no record, or it is damaged.
        OSError: it cannot be written.
    """
    record = read_record(rundir)
    if record is None:
        raise DriverError(f"{rundir / RECORD_NAME} is gone")
    write_record(rundir, msgspec.structs.replace(record, told=True))
    try:
        yield
    except DriverError:
        with contextlib.suppress(OSError):
            write_record(rundir, msgspec.structs.replace(record, told=False))
        raise
