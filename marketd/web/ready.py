"""Answers about the settled past, kept as ready bytes until a bar in them changes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

from aiohttp import web

from marketd.domain.instrument import Series
from marketd.market.service import Stable
from marketd.storage import Change
from marketd.web.errors import Handler

# How many questions without a ready answer are remembered.
_REMEMBERED = 4_096


class _Answer(NamedTuple):
    body: bytes
    headers: Mapping[str, str]
    of: Stable


class ReadyAnswers:
    """Bodies by the question as it was sent, the least used given up beyond `most_bytes`."""

    def __init__(self, most_bytes: int) -> None:
        # Grows with every change: an answer that was begun before one may be out of date.
        self.changes = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._of_series: dict[Series, set[str]] = {}
        self._came: OrderedDict[int, None] = OrderedDict()

    def comes_again(self, question: str) -> bool:
        """True if the question came a while ago, too: the answer to one that comes once is not worth
        the memory, nor what it costs to fill that anew each time."""
        mark = hash(question)
        came = mark in self._came
        self._came[mark] = None
        self._came.move_to_end(mark)
        if len(self._came) > _REMEMBERED:
            self._came.popitem(last=False)
        return came

    def find(self, question: str) -> web.Response | None:
        """The answer as it was given before, if nothing in it has changed since."""
        answer = self._answers.get(question)
        if answer is None:
            return None
        self._answers.move_to_end(question)
        return web.Response(body=answer.body, headers=answer.headers)

    def keep(self, question: str, response: web.Response, of: Stable) -> None:
        """Keeps an answer whose body is complete."""
        body = response.body
        if not isinstance(body, bytes) or len(body) > self._most_bytes // 8:
            return
        self._drop(question)
        headers = {key: response.headers[key] for key in response.headers if key not in _OWN}
        self._answers[question] = _Answer(body, headers, of)
        self._of_series.setdefault(of.series, set()).add(question)
        self._bytes += len(body)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._answers)))

    def changed(self, change: Change | None) -> None:
        """Gives up what was made of bars that have changed; with None, everything."""
        self.changes += 1
        asked = self._answers if change is None else self._of_series.get(change.series, ())
        for question in list(asked):
            if change is None or not self._answers[question].of.reach.clip(change.span).is_empty:
                self._drop(question)

    def forget(self, provider: str) -> None:
        """Gives up every answer about a provider: there may be another one by its name."""
        self.changes += 1
        for series, questions in list(self._of_series.items()):
            if series.instrument.provider == provider:
                for question in list(questions):
                    self._drop(question)

    def _drop(self, question: str) -> None:
        answer = self._answers.pop(question, None)
        if answer is None:
            return
        self._bytes -= len(answer.body)
        questions = self._of_series[answer.of.series]
        questions.discard(question)
        if not questions:
            del self._of_series[answer.of.series]


READY = web.AppKey("READY", ReadyAnswers)
# A handler puts here what its answer was made of, if only a change of those bars can change it.
STABLE = web.RequestKey("STABLE", Stable)


@web.middleware
async def ready(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers what was answered before, ahead of validation.

    Keeps what a handler marks as stable, once it was asked for twice.
    """
    if request.method != "GET" or request.body_exists:
        return await handler(request)
    answers = request.app[READY]
    question = " ".join((request.raw_path, *request.headers.getall("Accept", ())))
    kept = answers.find(question)
    if kept is not None:
        return kept
    changes = answers.changes
    response = await handler(request)
    of = request.get(STABLE)
    if (
        of is not None
        and answers.changes == changes
        and isinstance(response, web.Response)
        and answers.comes_again(question)
    ):
        answers.keep(question, response, of)
    return response


# What aiohttp writes anew for every response.
_OWN = frozenset({"Content-Length", "Date", "Server"})
