"""`marketd bars`: a page of bars, as a table or as CSV."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from marketd.barfiles.csv_text import HEADING, csv_row
from marketd.cli.arguments import InstrumentType, TimeType, url_option
from marketd.cli.running import ask
from marketd.cli.text import BarFormat, gap_text, iso, table

if TYPE_CHECKING:
    from marketd.client import Bars, MarketdClient
    from marketd.domain.instrument import Instrument


@click.command()
@click.argument("instrument", type=InstrumentType())
@click.argument("timeframe")
@click.option("--since", type=TimeType(), help="The first bars from this time on.")
@click.option("--before", type=TimeType(), help="Only bars that open before this time.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="The most bars to show; without --since the last ones.",
)
@click.option(
    "--fill",
    type=click.Choice(["null", "prev"]),
    help="Rows for intervals without a trade: empty, or with the close before.",
)
@click.option("--csv", is_flag=True, help="timestamp_ms,open,high,low,close,volume with every digit.")
@url_option
def bars(
    instrument: Instrument,
    timeframe: str,
    since: int | None,
    before: int | None,
    limit: int,
    fill: str | None,
    csv: bool,
    url: str,
) -> None:
    """Show the bars of an instrument.

    INSTRUMENT is written MARKET/PROVIDER/SYMBOL, the symbol with any slashes of its own. TIMEFRAME is
    a count and one of s, m, h, d, w, M (month) and y; or so many trades, such as 100t, or so much
    volume, such as 2.5v. TIME is an ISO date or time, UTC unless it says
    otherwise, or epoch milliseconds. What is missing is told on standard error.

    \b
    marketd bars crypto/sim/BTC/USD 1h
    marketd bars us_equity/sim/SPY 1d --since 2024-01-01 --limit 10000 --csv > SPY.csv
    """

    async def work(client: MarketdClient) -> Bars:
        return await client.ohlcv(
            instrument.market,
            instrument.provider,
            instrument.symbol,
            timeframe,
            since=since,
            before=before,
            limit=limit,
            fill=fill,
        )

    page = ask(url, work)
    if csv:
        lines = [HEADING, *map(csv_row, page.bars)]
        click.echo("\n".join(lines))
    else:
        heading = ["time", "open", "high", "low", "close", "volume"]
        click.echo(table(heading, BarFormat().rows(page.bars), right=True))
    for note in _notes(page, forwards=since is not None):
        click.echo(note, err=True)


def _notes(page: Bars, *, forwards: bool) -> list[str]:
    """What the rows alone do not say."""
    notes = [] if page.complete else ["incomplete, without:"]
    notes += [gap_text(gap) for gap in page.gaps]
    if page.filled:
        notes.append(f"{len(page.filled)} of these rows are filled in: nothing was traded then.")
    if not page.bars:
        notes.append("no bars.")
    elif page.next_page_token is not None:
        more = f"--since {iso(page.bars[-1][0] + 1)}" if forwards else f"--before {iso(page.bars[0][0])}"
        notes.append(f"there is more: {more}")
    return notes
