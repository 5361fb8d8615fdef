"""The log: structlog to stderr, as JSON for machines or in columns for people."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from midge.api.call import current_request_id
from midge.server.settings import Settings


def configure(settings: Settings) -> None:
    """Sets up structlog, and sends what libraries log the same way."""
    terminal = sys.stderr.isatty()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not terminal)
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
    ]
    renderer: Any = structlog.processors.JSONRenderer() if as_json else _console(colors=terminal)
    if as_json:
        shared.append(structlog.processors.format_exc_info)
    level = getattr(logging, settings.log_level.upper())
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_foreign(renderer))
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _foreign(renderer: Any) -> list[Any]:
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]


def _console(*, colors: bool) -> Any:
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)


def _add_request_id(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Every line written while a request is handled carries its id."""
    request_id = current_request_id.get()
    if request_id:
        event.setdefault("request_id", request_id)
    return event
