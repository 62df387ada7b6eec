"""What schemathesis has to know and no OpenAPI document can say. It loads this file as its hooks."""

from __future__ import annotations

from typing import Any

import schemathesis

from marketd.domain.errors import InvalidInput
from marketd.domain.instant import epoch_ms
from marketd.domain.timeframe import Timeframe


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case[Any]) -> schemathesis.Case[Any]:
    """Keeps questions that are meant to make sense to the rules that the document gives in words."""
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    for given in (case.query, case.body):
        if isinstance(given, dict):
            _make_sense(given)
    if case.path in ("/api/v1/ohlcv", "/api/v1/ticks") and isinstance(case.query, dict):
        # Hundreds of long bars are made of millions of simulated minutes, which takes its time.
        case.query["limit"] = min(int(case.query.get("limit", 5)), 5)
    if case.path == "/api/v1/backfills" and isinstance(case.body, dict):
        # Years of the simulated exchange would keep the machine busy for long: of a file it is minutes.
        case.body |= {"market": "odd", "provider": "files", "symbol": "ODD", "params": {}}
    return case


def _make_sense(query: dict[str, Any]) -> None:
    # A token comes from the answer before.
    query.pop("page_token", None)
    if query.get("symbol") == "ODD":
        query |= {"market": "odd", "provider": "files"}
    # since is not after before.
    if "since" in query and "before" in query:
        query["since"], query["before"] = sorted((query["since"], query["before"]), key=moment)
    # No timeframe is longer than ten years.
    if "timeframe" in query:
        try:
            Timeframe.parse(query["timeframe"])
        except InvalidInput:
            query["timeframe"] = "10y"


def moment(time: Any) -> int:
    return epoch_ms(time.upper() if isinstance(time, str) else int(time))
