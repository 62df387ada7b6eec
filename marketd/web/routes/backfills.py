"""Backfills: begun, watched, paused and ended."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from marketd.backfill.job import Backfill, Wanted
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.encoding import to_json
from marketd.web import answers, schemas
from marketd.web.keys import BACKFILLS, MARKET
from marketd.web.validation import BODY, operation


@operation(
    "backfill",
    "Backfills",
    query=schemas.NoQuery,
    answers={200: (answers.BackfillsOut, "Every backfill, the oldest first.")},
)
async def get_backfills(request: web.Request) -> web.Response:
    return _json({"backfills": [_told(one) async for one in request.app[BACKFILLS].all()]})


@operation(
    "backfill",
    "Begin a backfill",
    query=schemas.NoQuery,
    body=schemas.BackfillIn,
    answers={201: (answers.BackfillOut, "It has begun, and goes on after a restart.")},
    description="Fetches what is not known of the history of a series, the newest first, with what "
    "requests leave of the provider's rate limit. It is the base timeframe, which `timeframe` is made "
    "of, that is fetched.",
)
async def post_backfill(request: web.Request) -> web.Response:
    body = request[BODY]
    before_ms = body.get("before")
    if before_ms is None:
        provider = request.app[MARKET].provider(body["provider"])
        before_ms = max(body["since"], provider.now_ms())
    wanted = Wanted(
        Instrument(body["market"], body["provider"], body["symbol"]),
        body["timeframe"],
        body["params"],
        TimeRange(body["since"], before_ms),
        body["repair"],
    )
    return _json(_told(await request.app[BACKFILLS].add(wanted)), status=201)


@operation(
    "backfill",
    "One backfill",
    query=schemas.NoQuery,
    answers={200: (answers.BackfillOut, "How it stands.")},
)
async def get_backfill(request: web.Request) -> web.Response:
    return _json(_told(await request.app[BACKFILLS].get(request.match_info["id"])))


@operation(
    "backfill",
    "End a backfill",
    query=schemas.NoQuery,
    answers={200: (answers.BackfillOut, "How it stood in the end.")},
    description="Cancels one that has not ended, and forgets one that has. What it has stored stays. "
    "One that the configuration keeps can only be paused.",
)
async def delete_backfill(request: web.Request) -> web.Response:
    return _json(_told(await request.app[BACKFILLS].remove(request.match_info["id"])))


@operation(
    "backfill",
    "Pause a backfill",
    query=schemas.NoQuery,
    answers={200: (answers.BackfillOut, "It is paused, also after a restart.")},
)
async def pause_backfill(request: web.Request) -> web.Response:
    return _json(_told(await request.app[BACKFILLS].pause(request.match_info["id"])))


@operation(
    "backfill",
    "Resume a backfill",
    query=schemas.NoQuery,
    answers={200: (answers.BackfillOut, "It goes on.")},
    description="One that is paused, or that failed or was cancelled, goes on with what is missing.",
)
async def resume_backfill(request: web.Request) -> web.Response:
    return _json(_told(await request.app[BACKFILLS].resume(request.match_info["id"])))


def _told(one: Backfill) -> dict[str, Any]:
    wanted, what, brought = one.wanted, one.wanted.instrument, one.brought
    return {
        "id": one.id,
        "state": one.state,
        "message": one.message,
        "market": what.market,
        "provider": what.provider,
        "symbol": what.symbol,
        "timeframe": str(wanted.timeframe),
        "params": wanted.params,
        "since": wanted.span.start_ms,
        "before": wanted.span.end_ms,
        "repair": wanted.repair,
        "created": one.created_ms,
        "updated": one.updated_ms,
        "progress": one.progress,
        "eta_seconds": one.eta_s,
        "bars_per_second": one.bars_per_s,
        "bars": brought.bars,
        "new": brought.inserted,
        "revised": brought.revised,
        "refused": brought.refused,
        "every_seconds": None if one.kept is None else one.kept.every / 1000,
        "next": one.next_ms,
    }


def _json(body: dict[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=to_json(body), content_type="application/json", status=status)
