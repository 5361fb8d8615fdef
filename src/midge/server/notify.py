"""Telling systemd how far we are: sd_notify(3), the datagram protocol."""

from __future__ import annotations

import os
import socket

import structlog

_log = structlog.get_logger("midge.server")


def notify(state: str) -> None:
    """Sends ``READY=1``, ``STOPPING=1`` …; does nothing where nobody asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
            datagrams.connect(address)
            datagrams.send(state.encode())
    except OSError as error:
        _log.warning("systemd was not told", state=state, error=str(error))
