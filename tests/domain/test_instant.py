from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.instant import epoch_ms


@given(st.integers(0, 4_102_444_799_999))
def test_every_way_to_write_a_time_means_the_same(t: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=t)
    elsewhere = moment.astimezone(timezone(timedelta(hours=-5)))
    ways: list[object] = [t, str(t), moment, moment.isoformat(), elsewhere.isoformat()]
    assert {epoch_ms(way) for way in ways} == {t}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "2024-01-31",
        "2024-01-31T14:30:00",
        "1.5",
        1.5,
        True,
        None,
        [],
        "１２３",
        "9" * 50,
        "--1",
        b"1",
    ],
)
def test_what_names_no_instant_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="RFC 3339"):
        epoch_ms(value)


@pytest.mark.parametrize(
    "value", [-1, "-1", "1726-01-01T00:00:00Z", 4_102_444_800_000, "2100-01-01T00:00:00Z", 10**30]
)
def test_a_time_of_another_age_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="1970 up to 2100"):
        epoch_ms(value)
