"""Files to bars as an import reads them: every way to write times and columns, and every bad row."""

from __future__ import annotations

import gzip
import math
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from marketd.barfiles.layout import BadFile, Layout
from marketd.barfiles.reader import BadRow, read_parts
from marketd.barfiles.times import TimeFormat
from marketd.barfiles.writer import WRITERS, new_file
from marketd.domain.bar import Bar, same_bar
from marketd.domain.timeframe import Timeframe

MINUTE, DAY, MONTH = map(Timeframe.parse, ("1m", "1d", "1M"))
M = 60_000
T = 1_294_045_200_000  # 2011-01-03T09:00:00Z, four in the morning in New York
EITHER = Layout(may_descend=True)


def taken(
    path: Path, layout: Layout = EITHER, timeframe: Timeframe = MINUTE, before_ms: int = 2**41
) -> tuple[list[Bar], list[BadRow]]:
    """The good bars of a file, ascending, and its bad rows."""
    bars: list[Bar] = []
    bad: list[BadRow] = []
    for part in read_parts(path, timeframe, layout, before_ms=before_ms):
        bars += part.recording.bars()
        bad += part.bad
        assert 0 < part.done <= 1
    return sorted(bars), bad


def times_of(path: Path, layout: Layout = EITHER, timeframe: Timeframe = MINUTE) -> list[int]:
    bars, bad = taken(path, layout, timeframe)
    assert not bad
    return [bar[0] for bar in bars]


def csv(folder: Path, *rows: str, heading: str = "time,open,high,low,close,volume") -> Path:
    path = folder / "a.csv"
    path.write_text("\n".join([heading, *rows, ""]), encoding="utf-8")
    return path


def at(*times: object) -> list[str]:
    return [f"{time},1,1,1,1,1" for time in times]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (T // 1000, T // 1000 + 60),
        (T, T + M),
        (T * 1000, (T + M) * 1000),
        (T * 1_000_000, (T + M) * 1_000_000),
        ("2011-01-03 09:00", "2011-01-03 09:01"),
        ("2011-01-03T09:00:00Z", "2011-01-03T04:01:00-05:00"),
        ("20110103T090000", "20110103T090100"),
        ('"2011-01-03 09:00:00.000"', " 2011-01-03 09:01:00"),
    ],
)
def test_the_unit_of_times_goes_by_the_first_row(tmp_path: Path, first: object, second: object) -> None:
    assert times_of(csv(tmp_path, *at(first, second))) == [T, T + M]


@pytest.mark.parametrize(("unit", "times"), [("s", 1e-3), ("ms", 1), ("us", 1e3), ("ns", 1e6)])
def test_a_unit_that_is_told_holds_also_of_the_first_years(
    tmp_path: Path, unit: str, times: float
) -> None:
    path = csv(tmp_path, *at(0, round(M * times)))
    assert times_of(path, Layout(time=TimeFormat(unit))) == [0, M]


def test_times_without_a_zone_are_in_the_one_that_is_told(tmp_path: Path) -> None:
    layout = Layout(time=TimeFormat(zone=ZoneInfo("America/New_York")))
    winter_and_summer = at("2011-01-03 04:00", "2011-07-01 04:00", "2011-07-01 09:00Z")
    july = round(datetime(2011, 7, 1, 8, tzinfo=UTC).timestamp() * 1000)
    assert times_of(csv(tmp_path, *winter_and_summer), layout) == [T, july, july + 60 * M]


@pytest.mark.parametrize("time", ["2011-03-13 02:30", "2011-11-06 01:30"])
def test_a_time_that_the_clocks_skip_or_repeat_is_told(tmp_path: Path, time: str) -> None:
    layout = Layout(time=TimeFormat(zone=ZoneInfo("America/New_York")))
    bars, bad = taken(csv(tmp_path, *at("2011-01-03 04:00", time)), layout)
    assert [bar[0] for bar in bars] == [T]
    reason = f"{time} is no one time in America/New_York, whose clocks change then"
    assert bad == [BadRow("line 3", reason)]


def test_bars_labelled_with_their_end_get_their_start(tmp_path: Path) -> None:
    layout = Layout(labels_end=True)
    assert times_of(csv(tmp_path, *at(T + M, T + 2 * M)), layout) == [T, T + M]
    months = csv(tmp_path, *at("2011-02-01", "2011-03-01"))
    assert times_of(months, layout, MONTH) == [1_293_840_000_000, 1_296_518_400_000]
    _, bad = taken(csv(tmp_path, *at(T + 30_000, "0")), layout)
    assert [row.place for row in bad] == ["line 2", "line 3"]


def test_the_newest_bar_may_come_first_over_many_parts(tmp_path: Path) -> None:
    times = [T + M * n for n in range(10_000)]
    assert times_of(csv(tmp_path, *at(*reversed(times)))) == times


def test_columns_are_found_under_usual_names_in_any_case(tmp_path: Path) -> None:
    heading = "Date,Close,Volume,Low,High,Open,Adj Close"
    path = csv(tmp_path, "2011-01-03,2,7,1,3,1.5,9", heading=heading)
    assert taken(path, timeframe=DAY) == ([(T - 540 * M, 1.5, 3.0, 1.0, 2.0, 7.0)], [])
    path = csv(tmp_path, f"{T},1.5,3,1,2,7", heading="t,o,h,l,c,v")
    assert taken(path) == ([(T, 1.5, 3.0, 1.0, 2.0, 7.0)], [])


def test_columns_that_are_told_win_and_one_may_be_absent(tmp_path: Path) -> None:
    path = csv(tmp_path, f"x,{T},1,1,1,1,5", heading="time,stamp,open,high,low,close,last")
    layout = Layout({"t": "stamp", "close": "last", "high": "last", "volume": ""})
    assert taken(path, layout) == ([(T, 1.0, 5.0, 1.0, 5.0, None)], [])


@pytest.mark.parametrize(
    ("heading", "layout", "says"),
    [
        ("time,open,high,low,close", EITHER, "a.csv has no column that looks like volume."),
        ("time,open,high,low,close", EITHER, "time, open, high, low, close"),
        ("time,open,OPEN,high,low,close,v", EITHER, "a.csv has more than one column open."),
        ("time,open,high,low,close,v", Layout({"open": "Open"}), "a.csv has no column Open."),
        (" ", EITHER, "has no column that looks like t."),
    ],
)
def test_a_file_without_its_columns_is_told_what_it_has(
    tmp_path: Path, heading: str, layout: Layout, says: str
) -> None:
    with pytest.raises(BadFile) as refusal:
        taken(csv(tmp_path, *at(T), heading=heading), layout)
    assert says in str(refusal.value)


def test_every_bad_row_is_told_and_every_good_one_kept(tmp_path: Path) -> None:
    rows = at(T, "nonsense", T + M, T + M, T, T + 2 * M + 1, T + 3 * M)
    rows += [f"{T + 4 * M},1,0.5,1,1,1", f"{T + 5 * M},1,1,1", "", f"{T + 6 * M},,NaN,-Infinity,1e3,"]
    rows += [f"{T + 7 * M},1,1,1,1,-1", f"{T + 8 * M},x,1,1,1,1", *at(T + 9 * M)]
    bars, bad = taken(csv(tmp_path, *rows), before_ms=T + 9 * M)
    assert [(bar[0] - T) // M for bar in bars] == [0, 1, 3, 6]
    _, open_, high, low, close, volume = bars[-1]
    assert (open_, low, close, volume) == (None, -math.inf, 1000.0, None)
    assert high is not None
    assert math.isnan(high)
    assert [(int(row.place.removeprefix("line ")), row.reason) for row in bad] == [
        (3, "'nonsense' is not a time in epoch milliseconds"),
        (5, "its time is that of the row above"),
        (6, "its time lies before that of the row above"),
        (7, "its time is not on the grid of 1m"),
        (9, "its open and close do not lie between its low and high"),
        (10, "it has fewer columns than the header"),
        (13, "its volume is negative"),
        (14, "'x' is not a number"),
        (15, "its interval has not ended yet"),
    ]


def test_a_time_out_of_order_is_told_across_parts(tmp_path: Path) -> None:
    times = [T + M * n for n in range(5_000)]
    bars, bad = taken(csv(tmp_path, *at(*times, T + 7 * M)))
    assert len(bars) == 5_000
    assert bad == [BadRow("line 5002", "its time lies before that of the row above")]


def test_the_line_is_right_below_a_cell_of_several_lines(tmp_path: Path) -> None:
    path = csv(tmp_path, f'{T},1,1,1,1,1,"a\nb"', *at("x"), heading="t,o,h,l,c,v,note")
    _, bad = taken(path)
    assert [row.place for row in bad] == ["line 4"]


def test_the_good_rows_before_a_damage_are_given_before_it_is_told(tmp_path: Path) -> None:
    text = csv(tmp_path, *at(*(T + M * n for n in range(50_000)))).read_bytes()
    path = tmp_path / "a.csv.gz"
    packed = gzip.compress(text)
    path.write_bytes(packed[: len(packed) // 2])
    parts = read_parts(path, MINUTE, EITHER)
    assert len(next(parts).recording) > 0
    with pytest.raises(BadFile, match="damaged"):
        list(parts)


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (5 << 20))
    with pytest.raises(BadFile):
        taken(path)


@pytest.mark.parametrize(
    "times",
    [
        pa.array([T // 1000, T // 1000 + 60]),
        pa.array([T, T + M], pa.timestamp("ms", tz="America/New_York")),
        pa.array([T * 1_000_000, (T + M) * 1_000_000], pa.timestamp("ns")),
        pa.array(["2011-01-03 09:00", "2011-01-03 09:01"]),
    ],
    ids=["seconds", "zoned", "naive", "text"],
)
def test_parquet_may_hold_times_of_any_kind(tmp_path: Path, times: pa.Array) -> None:
    path = tmp_path / "a.parquet"
    values = {name: [1.0, 1.0] for name in ("open", "high", "low", "close", "volume")}
    parquet.write_table(pa.table({"time": times, **values}), path)
    assert times_of(path) == [T, T + M]


def test_a_bad_row_of_parquet_is_told_with_its_number_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {name: [1.0] * 5_000 for name in ("open", "high", "low", "close", "volume")}
    times: list[int | None] = [T + M * n for n in range(5_000)]
    times[4_500] = None
    parquet.write_table(pa.table({"time": times, **columns}), path)
    bars, bad = taken(path)
    assert len(bars) == 4_999
    assert bad == [BadRow("row 4501", "it has no time")]


a_number = st.floats(allow_nan=True) | st.none()


@given(st.lists(a_number, max_size=6), st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_what_is_written_is_read_identical(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float | None], ending: str
) -> None:
    bars: list[Bar] = [(T + M * n, number, None, None, number, None) for n, number in enumerate(numbers)]
    path = tmp_path_factory.mktemp("files") / f"a{ending}"
    with new_file(path, replace=False) as write:
        for bar in bars:
            write([bar])
    read, bad = taken(path)
    assert not bad
    assert all(same_bar(one, other) for one, other in zip(read, bars, strict=True))


@pytest.mark.parametrize("ending", WRITERS)
def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path, ending: str) -> None:
    def break_off() -> None:
        with new_file(tmp_path / f"a{ending}", replace=False) as write:
            write([(T, 1.0, 1.0, 1.0, 1.0, 1.0)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_arrow_has_times_as_over_rest(tmp_path: Path) -> None:
    with new_file(tmp_path / "a.arrow", replace=False) as write:
        write([(T, 1.0, None, 1.0, 1.0, 1.0)])
    with pa.ipc.open_file(tmp_path / "a.arrow") as file:
        table = file.read_all()
    assert table.schema.field("timestamp_ms").type == pa.timestamp("ms", tz="UTC")
    assert table.column("high").to_pylist() == [None]
