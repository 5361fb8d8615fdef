"""Writing to control files."""

from __future__ import annotations

import os
from pathlib import Path


def write_control(path: Path, value: str) -> None:
    """Writes a value to an existing file in one call. Raises: OSError with the path; FileNotFoundError.

    Not `Path.write_text`: its O_CREAT makes the kernel say "permission denied" for a file that does not exist.
    """
    fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(fd)
