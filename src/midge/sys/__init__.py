"""What the host's kernel offers beyond Python's `os`: a seam for system calls, and a host's picture for leak tests."""

from __future__ import annotations
