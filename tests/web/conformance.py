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
    query: Any = case.query
    if case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    if case.method == "POST" and isinstance(case.body, dict):
        # Years of the simulated exchange would keep the machine busy for long: of a file it is minutes.
        case.body |= {"market": "odd", "provider": "files", "symbol": "ODD", "params": {}}
        return ordered(case, case.body)
    if not query:
        return case
    # A token comes from the answer before.
    query.pop("page_token", None)
    if query.get("symbol") == "ODD":
        query |= {"market": "odd", "provider": "files"}
    return ordered(case, query)


def ordered(case: schemathesis.Case[Any], query: Any) -> schemathesis.Case[Any]:
    """`case` with sensible times in `query`, which is a part of it."""
    # since is not after before.
    if "since" in query and "before" in query:
        query["since"], query["before"] = sorted((query["since"], query["before"]), key=moment)
    # No timeframe is longer than ten years.
    if "timeframe" in query:
        try:
            Timeframe.parse(query["timeframe"])
        except InvalidInput:
            query["timeframe"] = "10y"
    return case


def moment(time: Any) -> int:
    return epoch_ms(time.upper() if isinstance(time, str) else time)
