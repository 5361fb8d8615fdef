"""Named servers in ``$XDG_CONFIG_HOME/midge/config.toml``: read, and replaced as a whole.

    current = "lab"

    [contexts.lab]
    url = "https://midge.example:4280"
    token = "..."
    org = "personal"
    app = "web"
    ca = "/etc/midge/ca.pem"

The file holds tokens: it is created with mode 0600 in a directory of mode 0700, and a reader never sees half of it.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path

from midge.errors import InvalidInput, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One server as a user named it. Empty strings: not set."""

    url: str
    token: str = ""
    org: str = ""
    app: str = ""
    ca: str = ""


@dataclass(frozen=True, slots=True)
class Contexts:
    """All of them. `current` is empty when none is chosen."""

    current: str = ""
    by_name: Mapping[str, Context] = field(default_factory=dict)
    path: Path = Path()

    def get(self, name: str) -> Context:
        """Raises NotFound, with the closest name as a hint."""
        try:
            return self.by_name[name]
        except KeyError:
            close = get_close_matches(name, self.by_name, n=1)
            hint = f"did you mean {close[0]}?" if close else "see `midge context ls`"
            raise NotFound(f"no context {name!r} in {self.path}", hint=hint) from None

    def with_context(self, name: str, context: Context) -> Contexts:
        if not _NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} cannot name a context", hint="use letters, digits, - and _")
        return Contexts(self.current or name, {**self.by_name, name: context}, self.path)

    def without(self, name: str) -> Contexts:
        self.get(name)
        rest = {other: context for other, context in self.by_name.items() if other != name}
        return Contexts("" if self.current == name else self.current, rest, self.path)

    def using(self, name: str) -> Contexts:
        self.get(name)
        return Contexts(name, self.by_name, self.path)


class ContextFile:
    """The file. Missing means: no contexts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_user(cls, env: Mapping[str, str]) -> ContextFile:
        """``MIDGE_CONFIG_DIR``, else ``$XDG_CONFIG_HOME/midge``, else ``~/.config/midge``."""
        if env.get("MIDGE_CONFIG_DIR"):
            return cls(Path(env["MIDGE_CONFIG_DIR"]) / "config.toml")
        base = env.get("XDG_CONFIG_HOME") or f"{env.get('HOME', '/')}/.config"
        return cls(Path(base) / "midge" / "config.toml")

    def read(self) -> Contexts:
        """Raises InvalidInput when the file is no TOML or has other types than ours."""
        try:
            tables = tomllib.loads(self.path.read_text("utf-8"))
        except FileNotFoundError:
            return Contexts(path=self.path)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise InvalidInput(f"{self.path} cannot be read", hint="mend the file, or remove it") from error
        try:
            known = {
                name: Context(**{key: str(value) for key, value in table.items() if key in Context.__slots__})
                for name, table in tables.get("contexts", {}).items()
            }
        except (AttributeError, TypeError) as error:
            raise InvalidInput(
                f"{self.path}: a context is a table with at least `url`", hint="mend the file"
            ) from error
        return Contexts(str(tables.get("current", "")), known, self.path)

    def write(self, contexts: Contexts) -> None:
        """Replaces the file; after a crash it is the old or the new one."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(render(contexts))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)


def render(contexts: Contexts) -> str:
    """The file's text. Strings are JSON strings, which TOML reads alike."""
    lines = [f"current = {_quoted(contexts.current)}"] if contexts.current else []
    for name, context in sorted(contexts.by_name.items()):
        lines += ["", f"[contexts.{name}]"]
        lines += [f"{key} = {_quoted(value)}" for key, value in asdict(context).items() if value]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
