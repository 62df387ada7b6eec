"""`marketd import`: bars out of files into the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from marketd.cli.arguments import TimeframeType, config_option
from marketd.cli.store import configured, opened, run

if TYPE_CHECKING:
    from datetime import tzinfo

    from marketd.domain.timeframe import Timeframe

_FIELDS = ("t", "open", "high", "low", "close", "volume")


class ColumnsType(click.ParamType[Mapping[str, str]]):
    """`t=Date,open=Open`: which column of the file is which value."""

    name = "FIELD=COLUMN,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Mapping[str, str]:
        columns = {}
        for pair in value.split(","):
            field, separator, column = pair.partition("=")
            if not separator or field not in _FIELDS or (field == "t" and not column):
                self.fail(
                    f"{pair!r} is not like open=Open, with one of {', '.join(_FIELDS)} on the left.",
                    param,
                    ctx,
                )
            columns[field] = column
        return columns


class ZoneType(click.ParamType["tzinfo"]):
    """A time zone by its name in the IANA database."""

    name = "ZONE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tzinfo:
        from datetime import UTC
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            return UTC if value == "UTC" else ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            self.fail(f"{value!r} is no time zone. Write one like UTC or America/New_York.", param, ctx)


@click.command("import")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE...",
)
@click.option("--market", required=True, help="Such as crypto or us_equity.")
@click.option("--provider", required=True, help="The provider that serves these bars from now on.")
@click.option("--symbol", required=True, help="The provider's own spelling, such as BTC/USD.")
@click.option("--timeframe", required=True, type=TimeframeType(), help="Such as 1m, 1h or 1d.")
@click.option(
    "--columns",
    type=ColumnsType(),
    help="Which column is which value, where the names do not say it: t=Date,open=First. "
    "volume= says that the file has none.",
)
@click.option(
    "--time-unit",
    type=click.Choice(["auto", "s", "ms", "us", "ns", "text"]),
    default="auto",
    show_default=True,
    help="How times are written: since 1970 in this unit, or as text; auto goes by the first row.",
)
@click.option(
    "--zone",
    type=ZoneType(),
    default="UTC",
    show_default=True,
    help="The zone of dates and times that do not say theirs.",
)
@click.option(
    "--end-labelled", is_flag=True, help="The time of a bar is that of its end, not its start."
)
@click.option(
    "--complete",
    is_flag=True,
    help="The file holds every bar that there is between its first and its last: "
    "an interval without one had no trade, and is not asked for any more.",
)
@config_option
@click.pass_context
def import_bars(
    context: click.Context,
    files: Sequence[Path],
    market: str,
    provider: str,
    symbol: str,
    timeframe: Timeframe,
    columns: Mapping[str, str] | None,
    time_unit: str,
    zone: tzinfo,
    end_labelled: bool,
    complete: bool,
    path: Path | None,
) -> None:
    """Store the bars of files: CSV, gzipped CSV or Parquet of any size.

    Works while the daemon runs and while it does not. The columns are found by their names, in any
    case: timestamp, time or date; open, high, low, close, volume. Rows ascend in time, or descend.

    A row that is no bar is told with its line and left out, the others are stored, and the command
    ends with 1. The same file stored twice changes nothing. A gap in the file stays a gap, which the
    provider is asked for, unless you say --complete.

    \b
    marketd import BTCUSD.csv.gz --market crypto --provider sim --symbol BTC/USD --timeframe 1m
    marketd import SPY.csv --market us_equity --provider files --symbol SPY --timeframe 1m \\
        --columns t=Date --zone America/New_York --end-labelled
    """
    from marketd.barfiles.layout import Layout
    from marketd.barfiles.times import TimeFormat
    from marketd.cli.importing import Importer
    from marketd.cli.progress import Progress
    from marketd.clock import SystemClock
    from marketd.domain.instrument import Instrument, Series

    config = configured(path)
    layout = Layout(columns or {}, TimeFormat(time_unit, zone), end_labelled, may_descend=True)
    series = Series(Instrument(market, provider, symbol), timeframe)

    async def work() -> bool:
        async with opened(config, make=True) as store:
            importer = Importer(store, series, layout, SystemClock(), complete=complete)
            good = [await importer.take(file, Progress(file.name)) for file in files]
            return all(good)

    if not run(work):
        context.exit(1)
    if provider not in config.providers:
        click.echo(
            f"No provider {provider} is configured: the bars are kept, and served once there is one.",
            err=True,
        )
