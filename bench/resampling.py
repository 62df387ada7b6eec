"""A million minutes into hours, in bars a second.

`resample_columns` over columns in memory, against polars over the same columns in memory, and against
DuckDB over the same bars in a Parquet file. All three answers are compared first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import duckdb
import numpy as np
import polars as pl

from bench.report import Row, alternate, faster
from bench.series import pages
from marketd.domain.resample import BarColumns, resample_columns
from marketd.domain.timeframe import Timeframe

_BARS = 1_000_000
_HOUR = Timeframe.parse("1h")
_SQL = """
    SELECT t - t % 3600000 AS bucket, arg_min(open, t), max(high), min(low), arg_max(close, t),
        sum(volume)
    FROM bars GROUP BY bucket ORDER BY bucket
"""


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds = 7 if quick else 21
    columns = BarColumns.of(list(chain.from_iterable(pages(_BARS // 1_000, 1_000))))
    frame = pl.DataFrame(
        {
            "t": columns.t,
            "open": columns.open,
            "high": columns.high,
            "low": columns.low,
            "close": columns.close,
            "volume": columns.volume,
        }
    )
    parquet = scratch / "bars.parquet"
    frame.write_parquet(parquet)
    timed = frame.with_columns(pl.col("t").cast(pl.Datetime("ms")).set_sorted())
    database = duckdb.connect()
    database.execute(f"CREATE VIEW bars AS FROM read_parquet('{parquet}')")

    def ours() -> BarColumns:
        return resample_columns(columns, _HOUR)

    def polars() -> pl.DataFrame:
        return timed.group_by_dynamic("t", every="1h").agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )

    def from_file() -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = database.execute(_SQL).fetchnumpy()
        return found

    expected = ours()
    for name, theirs in (("polars", polars()["volume"].to_numpy()), ("DuckDB", _last(from_file()))):
        if not np.allclose(theirs, expected.volume):
            raise RuntimeError(f"{name} makes other bars of the same minutes.")
    versus = alternate(lambda: _a_second(ours), lambda: _a_second(polars), rounds)
    yield faster("1m to 1h of a million bars", "polars, in memory", versus, "bars/s", 0.3)
    versus = alternate(lambda: _a_second(ours), lambda: _a_second(from_file), rounds)
    yield faster("1m to 1h of a million bars", "DuckDB, Parquet file", versus, "bars/s", 1.0)


def _a_second(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return _BARS / (time.perf_counter() - started_s)


def _last(columns: dict[str, np.ndarray]) -> np.ndarray:
    return list(columns.values())[-1]
