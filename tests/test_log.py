"""Logs: one line an event, and nothing secret or harmful in it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from lightipn.log import configure_logging

KEY = "lipn_Zm9vYmFyYmF6-_Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9v"
PRIVATE_KEYS = [
    prefix
    + "prv9s21ZrQH143K3QTDL4LXw2F7HEK3wJUD2nW2nRk4stbPy6cq3jPPqjiChkVvvNKmPGJxWUtg6LnF5kejMRNNU3TGtRBeJgk33yuGBxrMPHi"
    for prefix in ("x", "y", "z", "t", "u", "v", "Y", "Z")
]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Give the loggers back as they were: their set-up belongs to the process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(capsys: pytest.CaptureFixture[str], event: str = "room.thing_done", **fields: Any) -> dict[str, Any]:
    """Log an event as JSON and return its fields."""
    configure_logging(level="debug", format="json")
    structlog.get_logger("room").info(event, **fields)
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_event_is_one_json_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A line holds the event, its level, an ISO time in UTC, and the fields as they are."""
    line = logged(capsys, host="shop.example", status=200, nothing=None)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "room.thing_done",
        "level": "info",
        "host": "shop.example",
        "status": 200,
        "nothing": None,
    }


@pytest.mark.parametrize("secret", [KEY, *PRIVATE_KEYS])
@pytest.mark.parametrize("text", ["{}", "key={} is bad", "http://{}@host/?key={}", "a{}b\n{}"])
def test_keys_are_masked(capsys: pytest.CaptureFixture[str], secret: str, text: str) -> None:
    """API keys and private keys never reach a log, wherever they stand in a text."""
    line = logged(capsys, reason=text.replace("{}", secret), event=f"room.failed {secret}")
    assert "[secret]" in line["reason"]
    assert secret[6:20] not in json.dumps(line)


def test_what_only_looks_like_a_key_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """Public keys and plain words are not masked."""
    text = "xpub6BgBgsespWvERF3LHQu6CnqdvfEvtMcQjYrcRzx53 lipn_ shop"
    assert logged(capsys, reason=text)["reason"] == text


def test_control_characters_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing that steers a terminal or begins a new line gets through, in JSON and in text."""
    hostile = "a\x1b[31mb\rc\nd\x00e\x7ff\x9b31mg"
    assert logged(capsys, reason=hostile)["reason"] == "a?[31mb?c?d?e?f?31mg"
    configure_logging(level="debug", format="text")
    structlog.get_logger("room").info("room.thing_done", reason=hostile)
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    for character in ("\r", "\x00", "\x7f", "\x9b", "\x1b[31mb"):
        assert character not in err


def test_exceptions_are_masked_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback's text goes through the same mask."""
    configure_logging(level="debug", format="json")
    try:
        raise ValueError(f"bad key {KEY}")
    except ValueError:
        structlog.get_logger("room").exception("room.crashed")
    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: bad key [secret]" in json.loads(line)["exception"]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lower_levels_are_left_out(capsys: pytest.CaptureFixture[str], level: str, written: list[str]) -> None:
    """What is below the configured level is not written."""
    configure_logging(level=level, format="json")
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger("room"), name)("room.thing_done")
    assert [json.loads(line)["level"] for line in capsys.readouterr().err.splitlines()] == written


def test_auto_is_json_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal ``auto`` writes JSON."""
    configure_logging(level="info", format="auto")
    structlog.get_logger("room").info("room.thing_done")
    assert json.loads(capsys.readouterr().err)["event"] == "room.thing_done"


def test_text_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """``text`` writes a line that is no JSON."""
    configure_logging(level="info", format="text")
    structlog.get_logger("room").info("room.thing_done", status=200)
    err = capsys.readouterr().err
    assert "room.thing_done" in err
    assert not err.startswith("{")
