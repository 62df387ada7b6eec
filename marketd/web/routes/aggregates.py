"""What is computed ahead."""

from __future__ import annotations

from aiohttp import web

from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.encoding import to_json
from marketd.market.aggregates import Wanted
from marketd.web import answers, schemas
from marketd.web.keys import AGGREGATES
from marketd.web.validation import BODY, operation


@operation(
    "bars",
    "Bring aggregates up to date",
    query=schemas.NoQuery,
    body=schemas.RefreshBody,
    answers={200: (answers.RefreshOut, "They are, unless there was no time for all.")},
    description="Computes now the coarse bars that the store keeps, of the stored series that are "
    "named; without a body, of all. No answer is wrong without it: what is out of date is never "
    "read. If `complete` is false there was no time for all, and the same request goes on.",
)
async def refresh_aggregates(request: web.Request) -> web.Response:
    body = request[BODY]
    span = TimeRange(body.pop("since", MIN_MS), body.pop("before", MAX_MS))
    done = await request.app[AGGREGATES].refresh(Wanted(**body), span)
    return web.Response(body=to_json(done._asdict()), content_type="application/json")
