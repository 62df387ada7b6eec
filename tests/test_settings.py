"""Durations, sizes and values as text."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.config.settings import (
    ByteCount,
    Millis,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    toml_value,
)

DAY_MS = 86_400_000


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "ms"),
        [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1d", DAY_MS),
            ("1w", 7 * DAY_MS),
            ("1y", 365 * DAY_MS),
            ("0s", 0),
        ],
    )
    def test_a_duration_is_a_number_with_a_unit(self, text: str, ms: int) -> None:
        assert parse_duration(text) == ms

    @pytest.mark.parametrize(
        ("text", "count"), [("5B", 5), ("64KB", 65_536), ("1MB", 1 << 20), ("1GB", 1 << 30)]
    )
    def test_a_size_is_a_number_with_a_unit(self, text: str, count: int) -> None:
        assert parse_size(text) == count

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "s",
            "30",
            "-1s",
            "+1s",
            "1.5h",
            "1 s",
            " 1s",
            "1s ",
            "1s\n",
            "01s",
            "1S",
            "1M",
            "1h30m",
            "١s",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        for parse in (parse_duration, parse_size):
            with pytest.raises(ValueError, match="not a whole number with a unit"):
                parse(text)

    @given(st.integers(0, 100 * 365 * DAY_MS))
    def test_every_duration_is_read_as_it_is_written(self, ms: int) -> None:
        assert parse_duration(format_duration(Millis(ms))) == ms

    @given(st.integers(0, 999), st.sampled_from(["ms", "s", "m", "h", "d", "w", "y"]))
    def test_every_duration_is_written_in_no_smaller_a_unit_than_it_was_read(
        self, count: int, unit: str
    ) -> None:
        ms = parse_duration(f"{count}{unit}")
        assert ms == count * parse_duration(f"1{unit}")
        written = format_duration(ms)
        assert parse_duration(written) == ms
        assert count == 0 or int(re.sub(r"\D", "", written)) <= count

    @given(st.integers(0, 1 << 40))
    def test_every_size_is_read_as_it_is_written(self, count: int) -> None:
        assert parse_size(format_size(ByteCount(count))) == count

    @given(st.text())
    def test_any_text_is_a_value_of_toml_or_stays_as_it_is(self, text: str) -> None:
        value = toml_value(text)
        assert value == text or tomllib.loads(f"value = {text}") == {"value": value}
