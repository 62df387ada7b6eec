"""The log: one line an event, a member a key, and never a secret."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from marketd import logs

log = logging.getLogger("marketd.test")
FORMS = ("text", "json")


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """The process's logging is as it was afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Logging error" not in captured.err
    return captured.err.splitlines()


def objects(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def fail(message: str) -> None:
    raise ValueError(message)


def log_failure(message: str) -> None:
    try:
        fail(message)
    except ValueError:
        log.exception("task crashed task=%s", "feed")


def test_text_is_time_level_logger_and_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", [])
    log.warning("bar refused provider=%s count=%d", "kraken", 3)
    (line,) = lines(capsys)
    time, rest = line.split(" ", 1)
    assert rest == "warning marketd.test bar refused provider=kraken count=3"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert abs(datetime.fromisoformat(time) - datetime.now(UTC)) < timedelta(seconds=10)


def test_json_has_the_keys_of_an_event_as_members(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "json", [])
    log.warning(
        "bar refused provider=%s pause_s=%.1f bar=%.10r; others are counted", "kraken", 0.25, "x" * 99
    )
    (event,) = objects(capsys)
    assert datetime.fromisoformat(event.pop("time")).tzinfo is not None
    assert event == {
        "level": "warning",
        "logger": "marketd.test",
        "event": "bar refused",
        "provider": "kraken",
        "pause_s": "0.2",
        "bar": "'xxxxxxxxx",
    }


@pytest.mark.parametrize(
    ("event", "args", "told"),
    [
        ("100% ready", (), "100% ready"),
        ("opened %s", ("kraken",), "opened kraken"),
        ("opened provider=%(name)s", ({"name": "kraken"},), "opened provider=kraken"),
        ("opened %s took_s=%d", ("kraken", 3), "opened kraken took_s=3"),
    ],
)
def test_json_tells_an_event_whose_values_are_not_all_keyed_as_a_sentence(
    capsys: pytest.CaptureFixture[str], event: str, args: tuple[Any, ...], told: str
) -> None:
    logs.setup("info", "json", [])
    log.info(event, *args)
    assert [one["event"] for one in objects(capsys)] == [told]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str], form: str) -> None:
    logs.setup("warning", form, [])
    log.info("not this")
    log.warning("but this")
    (line,) = lines(capsys)
    assert "but this" in line


def test_text_indents_a_traceback_below_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", [])
    log_failure("it broke")
    first, *traceback = lines(capsys)
    assert first.endswith("error marketd.test task crashed task=feed")
    assert traceback[0] == "  Traceback (most recent call last):"
    assert traceback[-1] == "  ValueError: it broke"


def test_json_has_a_traceback_as_a_member(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "json", [])
    log_failure("it broke")
    (event,) = objects(capsys)
    assert event["event"] == "task crashed"
    assert event["exception"].endswith("ValueError: it broke")


# Hostile text


@pytest.mark.parametrize("hostile", ["\n", "\r\n", "\u2028", "\x85", "\x0b"])
def test_a_hostile_value_cannot_pose_as_another_line(
    capsys: pytest.CaptureFixture[str], hostile: str
) -> None:
    logs.setup("info", "text", [])
    log.info("asked symbol=%s", f"BTC{hostile}2024-01-01T00:00:00.000Z info marketd ready")
    log_failure(f"BTC{hostile}2024-01-01T00:00:00.000Z info marketd ready")
    assert sum(line.startswith("2") for line in lines(capsys)) == 2


def test_a_hostile_value_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", [])
    log.info("asked symbol=%s", "\x1b[2J\x07é")
    (line,) = lines(capsys)
    assert line.endswith(r"symbol=\x1b[2J\x07é")


@pytest.mark.parametrize("form", FORMS)
def test_text_that_is_no_unicode_is_logged_all_the_same(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.setup("info", form, [])
    log.info("read file=%s", "caf\udce9.csv")
    (line,) = lines(capsys)
    assert "dce9.csv" in line


# Secrets


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "secret",
    [
        "hunter2hunter2",
        'quo"ted',
        "sla\\shed",
        "-----BEGIN KEY-----\nMHcCAQ\n-----END KEY-----\n",
        "gehéim",
        "$^.*+?(",
    ],
)
def test_a_secret_is_blanked_wherever_it_comes_from(
    capsys: pytest.CaptureFixture[str], form: str, secret: str
) -> None:
    logs.setup("info", form, [secret])
    log.info("connected url=%s", f"https://{secret}@example.com")
    log.info(f"connected with {secret}")
    log.info("connected with=%r", secret)
    log.info("connected %s %s", secret, {"key": secret})
    log_failure(f"refused {secret}")
    log_failure(f"refused {secret!r}")
    written = lines(capsys)
    told = "\n".join(written)
    assert told.count("***") >= 7
    if form == "json":
        # As a reader of the JSON has it, too.
        told += "\n".join(text for line in written for text in json.loads(line).values())
    for spelling in (
        secret,
        repr(secret)[1:-1],
        json.dumps(secret)[1:-1],
        secret.strip().split("\n")[-1],
    ):
        assert spelling not in told


@pytest.mark.parametrize("form", FORMS)
def test_of_secrets_within_secrets_nothing_is_left(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    logs.setup("info", form, ["abcd", "abcdefgh", "cdef"])
    log.info("key=%s", "abcdefgh")
    (line,) = lines(capsys)
    assert not re.search("[a-h]{4}(?!t)", line.split("key")[1])
    assert "***" in line


def test_too_short_a_secret_is_not_looked_for(capsys: pytest.CaptureFixture[str]) -> None:
    logs.setup("info", "text", ["", "a", "abc"])
    log.info("abc is a word")
    (line,) = lines(capsys)
    assert line.endswith("abc is a word")
