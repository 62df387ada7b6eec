"""`marketd export`: bars out of the store into files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from marketd.cli.arguments import TimeframeType, TimeType, config_option
from marketd.cli.running import WrongInput
from marketd.cli.store import Store, configured, opened, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from marketd.barfiles.writer import Write
    from marketd.cli.progress import Progress
    from marketd.domain.instrument import Series
    from marketd.domain.timeframe import Timeframe
    from marketd.domain.timerange import TimeRange

# The bars that are read in one step.
_PAGE = 5_000
_FORMATS = ("csv", "csv.gz", "parquet", "arrow")
_STDOUT = "-"


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--market", help="Only series of this market.")
@click.option("--provider", help="Only series of this provider.")
@click.option("--symbol", help="Only series of this symbol.")
@click.option("--timeframe", type=TimeframeType(), help="Only series of this timeframe.")
@click.option("--since", type=TimeType(), help="Only bars that open at or after this time.")
@click.option("--before", type=TimeType(), help="Only bars that open before this time.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(_FORMATS),
    default="csv.gz",
    show_default=True,
    help="Of the files in a folder.",
)
@click.option("--force", is_flag=True, help="Replace files that are there already.")
@config_option
def export(
    target: Path,
    market: str | None,
    provider: str | None,
    symbol: str | None,
    timeframe: Timeframe | None,
    since: int | None,
    before: int | None,
    kind: str,
    force: bool,
    path: Path | None,
) -> None:
    """Write the stored bars to a file, or every series to a file of its own in a folder.

    TARGET is a file if its name ends with .csv, .csv.gz, .parquet or .arrow; then the options have to
    leave one series. - is standard output, as CSV. Any other TARGET is a folder, in which each series
    becomes MARKET/PROVIDER/SYMBOL_TIMEFRAME. Works while the daemon runs and while it does not.

    What is stored is what providers gave, in their own timeframes; marketd bars makes any other. The
    files are those that marketd import and the provider replay read.

    \b
    marketd export BTCUSD.parquet --provider sim --symbol BTC/USD --timeframe 1m
    marketd export all/ --since 2024-01-01
    """
    from marketd.barfiles.writer import ending
    from marketd.cli.progress import Progress
    from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange

    config = configured(path)
    span = TimeRange(MIN_MS if since is None else since, MAX_MS if before is None else before)
    wanted = {"market": market, "provider": provider, "symbol": symbol}
    into_one = str(target) == _STDOUT or ending(target.name) is not None

    async def work() -> None:
        async with opened(config) as store:
            chosen = [
                one
                for one in await store.series_list()
                if timeframe in (None, one.timeframe)
                and all(name in (None, getattr(one.instrument, key)) for key, name in wanted.items())
            ]
            if into_one:
                (series,) = _only(chosen)
                await _write(store, series, span, target, Progress(target.name), force=force)
                return
            if not chosen:
                raise WrongInput("No such series is stored.")
            for series in chosen:
                file = target / _file_of(series, kind)
                await _write(store, series, span, file, Progress(file.name), force=force)

    run(work)


def _only(chosen: Sequence[Series]) -> Sequence[Series]:
    if len(chosen) != 1:
        names = "".join(f"\n  {series}" for series in chosen[:20])
        problem = f"{len(chosen)} series are meant, which is no one file:{names}" if chosen else ""
        raise WrongInput(problem or "No such series is stored.")
    return chosen


def _file_of(series: Series, kind: str) -> Path:
    """Where a series goes in a folder: its names, whatever they hold, as names of files."""
    what = series.instrument
    variant = f"_{_safe(series.variant)}" if series.variant else ""
    name = f"{_safe(what.symbol)}_{series.timeframe}{variant}.{kind}"
    return Path(_safe(what.market), _safe(what.provider), name)


def _safe(name: str) -> str:
    quoted = quote(name, safe="")
    return f"%2E{quoted[1:]}" if quoted.startswith(".") else quoted


async def _write(
    store: Store, series: Series, span: TimeRange, file: Path, progress: Progress, *, force: bool
) -> None:
    from marketd.barfiles.writer import csv_writer, new_file

    try:
        if str(file) == _STDOUT:
            with csv_writer(sys.stdout.buffer) as write:
                await _copy(store, series, span, write, progress)
            return
        with new_file(file, replace=force) as write:
            count = await _copy(store, series, span, write, progress)
    except BrokenPipeError:
        return  # who read this has had enough
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror or error}.") from error
    click.echo(f"{file}: {count:,} bars")


async def _copy(store: Store, series: Series, span: TimeRange, write: Write, progress: Progress) -> int:
    """Hands the bars of `span` to `write`, a page at a time, and gives their number."""
    import asyncio

    count = 0
    while True:
        bars = (await store.read(series, span, limit=_PAGE)).bars
        await asyncio.to_thread(write, bars)
        count += len(bars)
        progress.advance(len(bars))
        if len(bars) < _PAGE:
            return count
        span = span._replace(start_ms=bars[-1][0] + 1)
