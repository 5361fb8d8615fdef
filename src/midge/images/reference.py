"""Image references, as people type them and as registries need them.

The grammar is the one of the `docker` command line: the first component names a registry when it contains a
dot or a colon, or is ``localhost``; names without a registry are Docker Hub's, and a single component there
means ``library/``.
"""

from __future__ import annotations

import re

import msgspec

from midge.errors import InvalidInput

DOCKER_HUB = "registry-1.docker.io"
DEFAULT_TAG = "latest"

_DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", DOCKER_HUB})
# Whole references longer than this are refused before any pattern sees them (name 255, tag 128, digest 71).
_MAX_CHARS = 512
_MAX_NAME_CHARS = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ImageRef(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed reference: at least one of tag and digest is set; a digest decides."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        """The canonical form, which parses to an equal reference."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"

    @property
    def familiar(self) -> str:
        """The shortest form people would type: without Docker Hub's name and ``library/``."""
        if self.registry != DOCKER_HUB:
            return str(self)
        text = str(self).removeprefix(f"{DOCKER_HUB}/")
        short = text.removeprefix("library/")
        return text if "/" in short else short

    @property
    def version(self) -> str:
        """What to ask the registry for: the digest, or else the tag."""
        return self.digest or self.tag


def parse(text: str) -> ImageRef:
    """Parses a reference such as ``debian:12`` or ``127.0.0.1:5000/x/y@sha256:…``.

    Raises:
        InvalidInput: it is not a reference; the message says which part is wrong.
    """
    if not text or len(text) > _MAX_CHARS:
        raise _invalid(text, "it is empty" if not text else f"it is longer than {_MAX_CHARS} characters")
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(text, "after @ there must be sha256: and 64 lower-case hex digits")
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    registry, repository = _split_registry(rest)
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not a registry's host name")
    if not _REPOSITORY.fullmatch(repository) or len(repository) > _MAX_NAME_CHARS:
        raise _invalid(text, f"{repository!r} is not a repository name (lower-case letters, digits, . _ - /)")
    if tag is None:
        tag = "" if digest else DEFAULT_TAG
    return ImageRef(registry=registry, repository=repository, tag=tag, digest=digest)


def is_digest(text: str) -> bool:
    """Whether the text is a sha256 digest, the only algorithm images use in practice."""
    return _DIGEST.fullmatch(text) is not None


def _split_tag(text: str) -> tuple[str, str | None]:
    head, slash, last = text.rpartition("/")
    name, colon, tag = last.partition(":")
    return f"{head}{slash}{name}", tag if colon else None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (
        "." in first
        or ":" in first
        or first == "localhost"
        or first.startswith("[")
        or first != first.lower()
    ):
        first, rest = DOCKER_HUB, name
    if first in _DOCKER_HUB_NAMES:
        first = DOCKER_HUB
        if "/" not in rest:
            rest = f"library/{rest}"
    return first, rest


def _invalid(text: str, why: str) -> InvalidInput:
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    return InvalidInput(
        f"{shown!r} is not an image reference: {why}", hint="write it like debian:12 or ghcr.io/owner/app:tag"
    )
