"""Markets, providers, symbols, bars, trades and gaps."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from marketd.domain.instrument import Instrument, TickSeries
from marketd.domain.tickframe import Tickframe
from marketd.encoding import to_json
from marketd.market.service import SeriesName, Window
from marketd.plugins.provider import Provider
from marketd.web import answers, schemas
from marketd.web.formats import ARROW, CSV, JSON, Answer, TicksAnswer, chosen, gaps_out, respond
from marketd.web.json_schema import json_schema
from marketd.web.keys import MARKET, SUBSCRIPTIONS, TAPES
from marketd.web.ready import STABLE
from marketd.web.validation import QUERY, operation


@operation(
    "market",
    "Markets and who serves them",
    query=schemas.NoQuery,
    answers={200: (answers.MarketsOut, "Every market, in order.")},
)
async def get_markets(request: web.Request) -> web.Response:
    markets = request.app[MARKET].markets()
    return _json({"markets": [{"market": name, "providers": by} for name, by in markets.items()]})


@operation(
    "market",
    "Providers, what they can and how they are",
    query=schemas.ProvidersQuery,
    answers={200: (answers.ProvidersOut, "The providers of the configuration.")},
    description="Some find out what they have when they open, which the first use does: of one that is "
    "`idle` it may be unknown. `schemas` say what may be configured and asked, never what was.",
)
async def get_providers(request: web.Request) -> web.Response:
    providers = request.app[MARKET].providers(request[QUERY].get("market"))
    bars, ticks = request.app[SUBSCRIPTIONS], request.app[TAPES]
    feeds = {one.name: Counter(bars.feeds(one.name)) for one in providers}
    for name, counts in feeds.items():
        counts.update(ticks.feeds(name))
    return _json({"providers": [_provider(one) | {"feeds": feeds[one.name]} for one in providers]})


@operation(
    "market",
    "Symbols of a provider",
    query=schemas.SymbolsQuery,
    answers={200: (answers.SymbolsOut, "Symbols in the order of their names.")},
)
async def get_symbols(request: web.Request) -> web.Response:
    query = request[QUERY]
    page = await request.app[MARKET].symbols(
        query.get("market"),
        query["provider"],
        query=query["query"],
        limit=query["limit"],
        page_token=query.get("page_token"),
    )
    symbols = [
        {
            "symbol": info.symbol,
            "market": info.market,
            "name": info.name,
            "base": info.base,
            "quote": info.quote,
            "first": info.first_ms,
            "last": info.last_ms,
        }
        for info in page.symbols
    ]
    return _json({"symbols": symbols, "next_page_token": page.next_page_token})


@operation(
    "bars",
    "Bars of a series",
    query=schemas.OhlcvQuery,
    answers={200: (answers.OhlcvOut, "Bars, ascending by time.")},
    description="The first bars from `since`, or the last ones before `before`. A bar whose interval "
    "has not ended is the newest and still changes. What could not be had is listed in `gaps`, and "
    "`complete` is false then; an interval without a bar outside the gaps had no trade. "
    "Keys that are not listed here go to the provider as its own parameters. "
    "With a timeframe such as `100t` or `2.5v` the bars are made of trades: each ends with the "
    "millisecond in which it is full, and counting begins anew with every UTC day and behind every gap; "
    "the newest bar still changes. "
    "`Accept: text/csv` or `application/vnd.apache.arrow.stream` gives other formats: there `filled` is "
    "a column, and the headers Marketd-Complete and Marketd-Next-Page-Token say the rest.",
    produces=(JSON, CSV, ARROW),
)
async def get_ohlcv(request: web.Request) -> web.Response:
    kind = chosen(",".join(request.headers.getall("Accept", [])))
    query = request[QUERY]
    window = Window(query.get("since"), query.get("before"), query["limit"], query.get("page_token"))
    if isinstance(query["timeframe"], Tickframe):
        series = TickSeries(_instrument(query), query["timeframe"])
        return await respond(kind, Answer(series, await request.app[MARKET].tick_bars(series, window)))
    name = _series_name(query)
    page = await request.app[MARKET].bars(name, window, query.get("fill"))
    if page.stable is not None:
        request[STABLE] = page.stable
    return await respond(kind, Answer(name, page))


@operation(
    "ticks",
    "Trades of an instrument",
    query=schemas.TicksQuery,
    answers={200: (answers.TicksOut, "Trades, ascending by time.")},
    description="The first trades from `since`, or the last ones before `before`: the stored ones, and "
    "what the provider's own history has, if it has one. What was neither followed nor fetched is "
    "listed in `gaps`, and `complete` is false then. A trade is time, price, size, the taker's side and "
    "the provider's id; side and id may be empty. "
    "`Accept: text/csv` or `application/vnd.apache.arrow.stream` gives other formats: there the headers "
    "Marketd-Complete and Marketd-Next-Page-Token say the rest.",
    produces=(JSON, CSV, ARROW),
)
async def get_ticks(request: web.Request) -> web.Response:
    kind = chosen(",".join(request.headers.getall("Accept", [])))
    query = request[QUERY]
    instrument = _instrument(query)
    window = Window(query.get("since"), query.get("before"), query["limit"], query.get("page_token"))
    page = await request.app[MARKET].ticks(instrument, window)
    return await respond(kind, TicksAnswer(instrument, page))


@operation(
    "bars",
    "What is not known of a series",
    query=schemas.GapsQuery,
    answers={200: (answers.GapsOut, "Gaps, ascending by time.")},
    description="The ranges without a proof, each with its reason. Asks no provider.",
)
async def get_gaps(request: web.Request) -> web.Response:
    query = request[QUERY]
    gaps = await request.app[MARKET].gaps(
        _series_name(query), since=query.get("since"), before=query.get("before")
    )
    return _json({"gaps": gaps_out(gaps)})


def _series_name(query: dict[str, Any]) -> SeriesName:
    return SeriesName(_instrument(query), query["timeframe"], query["params"])


def _instrument(query: dict[str, Any]) -> Instrument:
    return Instrument(query["market"], query["provider"], query["symbol"])


def _provider(provider: Provider) -> dict[str, Any]:
    plugin = provider.plugin
    return {
        "provider": provider.name,
        "plugin": plugin.plugin,
        "description": plugin.description,
        "markets": list(plugin.markets),
        "timeframes": [str(timeframe) for timeframe in plugin.timeframes],
        "features": provider.features,
        "limits": _limits(provider),
        "schemas": {
            "settings": json_schema(plugin.settings_schema),
            "credentials": json_schema(plugin.credentials_schema),
            "params": json_schema(plugin.params_schema),
        },
        "health": {"state": provider.health.state, "message": provider.health.message},
    }


def _limits(provider: Provider) -> dict[str, Any]:
    plugin, rate = provider.plugin, provider.rate_limit
    return {
        "page": plugin.page_limit,
        "concurrency": plugin.concurrency,
        "rate": rate and {"requests": rate.requests, "per_ms": rate.per_ms, "burst": rate.burst},
    }


def _json(body: dict[str, Any]) -> web.Response:
    return web.Response(body=to_json(body), content_type="application/json")
