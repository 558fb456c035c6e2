"""Logs: an event name and fields; JSON when nobody watches, text on a terminal. Secrets are masked on the way out."""

import logging
import re
import sys
from typing import Any

import structlog

_SECRETS = re.compile(r"lipn_[A-Za-z0-9_-]{8,}|[xyztuvYZ]prv[1-9A-HJ-NP-Za-km-z]{20,}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _masked(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Mask API keys and private keys, and anything that could steer a terminal, wherever they came from."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _CONTROL.sub("?", _SECRETS.sub("[secret]", value))
    return event


def configure_logging(*, level: str, format: str) -> None:  # noqa: A002  # the key's name in the configuration
    """Set up logging for a process; lines go to stderr.

    Args:
        level: the least level that is written.
        format: ``json``, ``text``, or ``auto``: text if stderr is a terminal.
    """
    is_text = format == "text" or (format == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if is_text else structlog.processors.JSONRenderer()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _masked,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # What libraries have to say (Hypercorn, of a bug in a route) goes the same way.
    logging.basicConfig(
        stream=sys.stderr, level=max(number, logging.WARNING), format="%(levelname)s %(name)s %(message)s"
    )
