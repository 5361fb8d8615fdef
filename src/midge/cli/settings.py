"""App, organization and region: flag, then environment, then project file, then context, then default."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from midge.cli.exits import UsageFailure
from midge.cli.session import Session
from midge.client.endpoint import Sourced

DEFAULT_APP = "default"
DEFAULT_ORG = "personal"
PROJECT_FILE = "fly.toml"

APP_VARIABLES = ("MIDGE_APP", "FLY_APP")
ORG_VARIABLES = ("MIDGE_ORG", "FLY_ORG", "FLY_ORGANIZATION")
REGION_VARIABLES = ("MIDGE_REGION", "FLY_REGION")


def app(session: Session, flag: str) -> Sourced | None:
    """The app that is named somewhere, or None."""
    return (
        _flag(flag, "--app")
        or _environment(session.env, APP_VARIABLES)
        or _project_app(session.cwd)
        or _of_context(session, "app")
    )


def org(session: Session, flag: str = "") -> Sourced:
    return (
        _flag(flag, "--org")
        or _environment(session.env, ORG_VARIABLES)
        or _of_context(session, "org")
        or Sourced(DEFAULT_ORG, "default")
    )


def region(session: Session, flag: str = "") -> Sourced:
    """Empty: the server chooses."""
    return _flag(flag, "--region") or _environment(session.env, REGION_VARIABLES) or Sourced("", "default")


def project_file(cwd: Path) -> Path | None:
    """The nearest `fly.toml`, here or above."""
    for directory in (cwd, *cwd.parents):
        file = directory / PROJECT_FILE
        if file.is_file():
            return file
    return None


def _flag(value: str, name: str) -> Sourced | None:
    return Sourced(value, name) if value else None


def _environment(env: Mapping[str, str], names: tuple[str, ...]) -> Sourced | None:
    return next((Sourced(env[name], name) for name in names if env.get(name)), None)


def _project_app(cwd: Path) -> Sourced | None:
    file = project_file(cwd)
    if file is None:
        return None
    try:
        value = tomllib.loads(file.read_text("utf-8")).get("app")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageFailure(f"{file} cannot be read", hint="name the app with --app") from error
    return Sourced(value, str(file)) if isinstance(value, str) and value else None


def _of_context(session: Session, field: str) -> Sourced | None:
    endpoint = session.endpoint_or_none()
    if endpoint is None or not endpoint.context:
        return None
    context = session.context_file().read().get(endpoint.context)
    value = {"app": context.app, "org": context.org}[field]
    return Sourced(value, f"context {endpoint.context}") if value else None
