"""The engine's own log, on standard error in dockerd's form."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from portside.engine.options import DaemonOptions

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
    "panic": logging.CRITICAL,
}
_NAMES = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}


class _Text(logging.Formatter):
    """``time="…" level=info msg="…"``."""

    def format(self, record: logging.LogRecord) -> str:
        level, message = _NAMES.get(record.levelno, "info"), super().format(record)
        return f'time="{_stamp(record)}" level={level} msg={json.dumps(message)}'


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        level, message = _NAMES.get(record.levelno, "info"), super().format(record)
        return json.dumps({"level": level, "msg": message, "time": _stamp(record)})


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def set_up_logging(options: DaemonOptions) -> None:
    """Log to standard error as the options say; may be called again."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if options.log_format == "json" else _Text())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if options.debug else _LEVELS[options.log_level])
    logging.getLogger("asyncio").setLevel(logging.WARNING)
