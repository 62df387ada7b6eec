"""Bars and trades as JSON, CSV or Arrow, whichever the client's Accept header asks for first."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from aiohttp import web

from marketd.barfiles.csv_text import HEADING, csv_row
from marketd.domain.bar import Value
from marketd.domain.errors import Unsupported
from marketd.domain.instrument import Instrument, TickSeries
from marketd.encoding import to_json
from marketd.market.service import BarsPage, SeriesName
from marketd.market.tick_pages import TicksPage

TICK_HEADING = ("timestamp_ms", "price", "size", "side", "trade_id")
JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
_FILLED = "filled"  # a further column, where rows for empty intervals were asked for
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
# Below this many bars encoding takes less than a hop to another thread is worth.
_INLINE = 2_000


class Answer(NamedTuple):
    """A page of bars and the series that it is of."""

    name: SeriesName | TickSeries
    page: BarsPage

    @property
    def size(self) -> int:
        return len(self.page.bars)


class TicksAnswer(NamedTuple):
    """A page of trades and the instrument that it is of."""

    name: Instrument
    page: TicksPage

    @property
    def size(self) -> int:
        return len(self.page.ticks)


async def respond(kind: str, answer: Answer | TicksAnswer) -> web.Response:
    """The answer as `kind`, one of those that `chosen` gives."""
    encode = _ENCODERS[kind] if isinstance(answer, Answer) else _TICK_ENCODERS[kind]
    body = await asyncio.to_thread(encode, answer) if answer.size > _INLINE else encode(answer)
    response = web.Response(body=body, content_type=kind, headers={"Vary": "Accept"})
    if kind != JSON:
        # What the other formats have no place for.
        response.headers["Marketd-Complete"] = "false" if answer.page.gaps else "true"
        if answer.page.next_page_token is not None:
            response.headers["Marketd-Next-Page-Token"] = answer.page.next_page_token
    return response


def gaps_out(page_gaps: Sequence[tuple[int, int, str]]) -> list[dict[str, int | str]]:
    """Gaps as the answers list them."""
    return [{"start": start, "end": end, "reason": reason} for start, end, reason in page_gaps]


@lru_cache
def chosen(accept: str) -> str:
    """The served format that an Accept header likes best; 406 if it likes none.

    Among equals it is the one that the header names first.
    """
    wanted = [_media_range(part, place) for place, part in enumerate((accept or "*/*").split(","))]
    liked = {kind: _liking(kind, wanted) for kind in _ENCODERS}
    best = max(liked, key=lambda kind: liked[kind])
    if liked[best].quality <= 0:
        raise web.HTTPNotAcceptable
    return best


class _Liking(NamedTuple):
    """How much a format is wanted; of two, the greater is better."""

    quality: float
    place: int


def _media_range(part: str, place: int) -> tuple[str, _Liking]:
    kind, *options = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for option in options:
        if option.startswith("q="):
            # Whatever is no number that the header may hold is not wanted.
            quality = float(option[2:]) if _QUALITY.fullmatch(option[2:]) else 0.0
    return kind, _Liking(quality, -place)


def _liking(kind: str, wanted: Sequence[tuple[str, _Liking]]) -> _Liking:
    """What the most specific range that fits `kind` says."""
    main, _, _ = kind.partition("/")
    for fitting in (kind, f"{main}/*", "*/*"):
        for named, liking in wanted:
            if named == fitting:
                return liking
    return _Liking(0.0, 0)


def _json(answer: Answer) -> bytes:
    what, page = answer.name.instrument, answer.page
    body = {
        "market": what.market,
        "provider": what.provider,
        "symbol": what.symbol,
        "timeframe": str(answer.name.timeframe),
        "bars": page.bars,
        "complete": not page.gaps,
        "gaps": gaps_out(page.gaps),
        "next_page_token": page.next_page_token,
    }
    if page.filled is not None:
        body["filled"] = page.filled
    return to_json(body)


def _marks(page: BarsPage) -> list[bool] | None:
    """For each row whether it was filled in; None if nobody asked for that."""
    if page.filled is None:
        return None
    filled = set(page.filled)
    return [bar[0] in filled for bar in page.bars]


def _csv(answer: Answer) -> bytes:
    lines = [HEADING, *map(csv_row, answer.page.bars)]
    marks = _marks(answer.page)
    if marks is not None:
        last = [_FILLED, *("true" if mark else "false" for mark in marks)]
        lines = [f"{line},{mark}" for line, mark in zip(lines, last, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def _arrow(answer: Answer) -> bytes:
    pa = _pyarrow()
    columns: Sequence[Sequence[Value]] = list(zip(*answer.page.bars, strict=True)) or [()] * 6
    kinds = [pa.timestamp("ms", tz="UTC"), *[pa.float64()] * 5]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    table = pa.table(dict(zip(HEADING.split(","), arrays, strict=True)))
    marks = _marks(answer.page)
    if marks is not None:
        table = table.append_column(_FILLED, pa.array(marks, pa.bool_()))
    return _arrow_stream(table)


def _ticks_json(answer: TicksAnswer) -> bytes:
    what, page = answer
    return to_json(
        {
            "market": what.market,
            "provider": what.provider,
            "symbol": what.symbol,
            "ticks": page.ticks,
            "complete": not page.gaps,
            "gaps": gaps_out(page.gaps),
            "next_page_token": page.next_page_token,
        }
    )


def _ticks_csv(answer: TicksAnswer) -> bytes:
    text = io.StringIO()
    # An id is the provider's own text, which may hold whatever it likes.
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(TICK_HEADING)
    rows.writerows(answer.page.ticks)
    return text.getvalue().encode()


def _ticks_arrow(answer: TicksAnswer) -> bytes:
    pa = _pyarrow()
    columns = list(zip(*answer.page.ticks, strict=True)) or [()] * 5
    kinds = [pa.timestamp("ms", tz="UTC"), pa.float64(), pa.float64(), pa.string(), pa.string()]
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return _arrow_stream(pa.table(dict(zip(TICK_HEADING, arrays, strict=True))))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise Unsupported(
            "Arrow needs the extra packages of marketd[arrow], which are not installed."
        ) from None
    return pyarrow


def _arrow_stream(table: Any) -> bytes:
    pa = _pyarrow()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


_ENCODERS: dict[str, Callable[[Any], bytes]] = {JSON: _json, CSV: _csv, ARROW: _arrow}
_TICK_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    JSON: _ticks_json,
    CSV: _ticks_csv,
    ARROW: _ticks_arrow,
}
