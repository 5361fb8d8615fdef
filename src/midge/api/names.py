"""Names clients choose, and the rules for them."""

from __future__ import annotations

import re

from midge.errors import InvalidInput, MidgeError
from midge.ids import is_machine_id

# "under 63": the limit as the API words it.
_APP_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,60}[a-z0-9])?")
_MACHINE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_NETWORK_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
DEFAULT_NETWORK = "default"
ID_SHOWN_MAX = 64  # characters of a malformed id that are repeated in the error


class ValidationFailed(MidgeError):
    """A name breaks the rules; Fly answers 422 and not 400 here."""

    code = "invalid_input"
    status = 422


def check_app_name(name: str) -> str:
    """Raises ValidationFailed."""
    if _APP_NAME.fullmatch(name) is None:
        raise ValidationFailed(
            "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes"
        )
    return name


def check_machine_name(name: str) -> str:
    """Raises InvalidInput."""
    if _MACHINE_NAME.fullmatch(name) is None:
        raise InvalidInput(
            "invalid_argument: $.name: not a machine name",
            hint="up to 63 letters, digits, dashes, dots and underscores, with a letter or digit at both ends",
        )
    return name


def check_network(name: str) -> str:
    """The network's name, empty meaning the default one. Raises ValidationFailed."""
    if not name:
        return DEFAULT_NETWORK
    if _NETWORK_NAME.fullmatch(name) is None:
        raise ValidationFailed("Validation failed: Network under 64 chars using letters, numbers and dashes")
    return name


def check_machine_id(text: str) -> str:
    """Raises InvalidInput."""
    if not is_machine_id(text):
        raise InvalidInput(f"invalid machine ID, '{text[:ID_SHOWN_MAX]}'")
    return text
