"""`marketd ticks`: a page of trades, as a table or as CSV."""

from __future__ import annotations

import csv as csv_module
import sys
from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import InstrumentType, TimeType, url_option
from marketd.cli.running import ask
from marketd.cli.text import gap_text, iso, table

if TYPE_CHECKING:
    from marketd.client import MarketdClient, Ticks
    from marketd.domain.instrument import Instrument


@click.command()
@click.argument("instrument", type=InstrumentType())
@click.option("--since", type=TimeType(), help="The first trades from this time on.")
@click.option("--before", type=TimeType(), help="Only trades before this time.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="The most trades to show; without --since the last ones.",
)
@click.option("--csv", is_flag=True, help="timestamp_ms,price,size,side,trade_id with every digit.")
@url_option
def ticks(
    instrument: Instrument, since: int | None, before: int | None, limit: int, csv: bool, url: str
) -> None:
    """Show the trades of an instrument.

    INSTRUMENT is written MARKET/PROVIDER/SYMBOL, the symbol with any slashes of its own. TIME is an
    ISO date or time, UTC unless it says otherwise, or epoch milliseconds. What is missing is told on
    standard error.

    \b
    marketd ticks crypto/sim/BTC/USD
    marketd ticks crypto/sim/BTC/USD --since 2024-03-05T14:30:00Z --limit 10000 --csv > trades.csv
    """

    async def work(client: MarketdClient) -> Ticks:
        what = instrument
        return await client.ticks(
            what.market, what.provider, what.symbol, since=since, before=before, limit=limit
        )

    page = ask(url, work)
    if csv:
        rows = csv_module.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["timestamp_ms", "price", "size", "side", "trade_id"])
        rows.writerows(page.ticks)
    else:
        shown = [
            [iso(t_ms), str(price), str(size), side, name]
            for t_ms, price, size, side, name in page.ticks
        ]
        click.echo(table(["time", "price", "size", "side", "id"], shown, right=True))
    for note in _notes(page, forwards=since is not None):
        click.echo(note, err=True)


def _notes(page: Ticks, *, forwards: bool) -> list[str]:
    """What the rows alone do not say."""
    notes = [] if page.complete else ["incomplete, without:"]
    notes += [gap_text(gap) for gap in page.gaps]
    if not page.ticks:
        notes.append("no trades.")
    elif page.next_page_token is not None:
        # From the edge itself on: its millisecond may hold more.
        edge_ms = page.ticks[-1][0] if forwards else page.ticks[0][0] + 1
        notes.append(f"there is more: {'--since' if forwards else '--before'} {iso(edge_ms)}")
    return notes
