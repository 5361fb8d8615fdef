"""What can go wrong between a host and the init of a machine."""

from __future__ import annotations

from midge.errors import GuestError


class ProtocolError(GuestError):
    """Bytes or a message that the guest protocol does not allow."""

    code = "guest_protocol"


class ChannelLost(GuestError):
    """The connection to the shim ended, or the session was replaced, while something was under way.

    What the guest did about it is unknown: attach again and look.
    """

    code = "guest_channel_lost"


class GuestRefused(GuestError):
    """The guest answered ERROR.

    Attributes:
        guest_code: the guest's stable code, for instance ``not_found``.
        during: name of the refused frame in lower case, for instance ``exec``.
    """

    code = "guest_refused"

    def __init__(self, message: str, *, guest_code: str, during: str) -> None:
        super().__init__(message, guest_code=guest_code, during=during)
        self.guest_code = guest_code
        self.during = during


class ExecEnded(GuestError):
    """Input for a process that has ended or has closed its standard input."""

    code = "exec_ended"
