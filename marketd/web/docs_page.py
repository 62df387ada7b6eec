"""The description of the interface as one page: no script, no network, headings in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
section { border-top: 1px solid; margin-top: 2rem; }
h3 { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; font-weight: bold; padding: .5rem 0; }
th, td { text-align: left; vertical-align: top; border-bottom: 1px solid; padding: .3rem .8rem .3rem 0; }
code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; border: 1px solid; padding: .8rem; }
.skip:not(:focus) { position: absolute; left: -999rem; }
"""

_STREAM = """→ {"type":"subscribe","id":"1","channel":"bars","market":"crypto","provider":"sim",
   "symbols":["BTC/USD"],"timeframe":"1m","since":1700000000000}
← {"type":"subscribed","id":"1","streams":[…]}
← {"type":"snapshot",…,"bars":[[t,o,h,l,c,v],…],"complete":true,"cursor":"…"}
← {"type":"bar",…,"bar":[t,o,h,l,c,v],"closed":false,"rev":0,"cursor":"…"}"""


def render(document: dict[str, Any]) -> str:
    """The page for an OpenAPI document."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(info['title'])}: interface</title><style>{_STYLE}</style></head><body>"
    yield '<a class="skip" href="#main">Skip to the interface</a>'
    yield f"<header><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
    yield f"<p>{_prose(info['description'])}</p>"
    yield '<p>For programs: <a href="/openapi.json">OpenAPI 3.1</a>. '
    yield 'Now: <a href="/readyz">readiness</a>, <a href="/api/v1/markets">markets</a>, '
    yield '<a href="/api/v1/providers">providers</a>, <a href="/metrics">metrics</a>.</p></header>'
    yield '<main id="main"><h2>REST</h2>'
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield from _operation(method, path, operation, document)
    yield "<section><h2>WebSocket /api/v1/stream</h2>"
    # A keyboard can scroll only what it can reach.
    yield f'<pre tabindex="0">{escape(_STREAM)}</pre></section>'
    yield "</main></body></html>"


def _operation(
    method: str, path: str, operation: dict[str, Any], document: dict[str, Any]
) -> Iterator[str]:
    yield f'<section id="{escape(operation["operationId"])}">'
    yield f"<h3>{escape(method.upper())} {escape(path)}</h3><p>{escape(operation['summary'])}.</p>"
    if operation["description"]:
        yield f"<p>{_prose(operation['description'])}</p>"
    for caption, place in (("Path", "path"), ("Query", "query")):
        rows = [one for one in operation["parameters"] if one["in"] == place]
        yield from _inputs(caption, rows)
    if "requestBody" in operation:
        (content,) = operation["requestBody"]["content"].values()
        yield from _inputs("Body, as JSON", _members(content["schema"], document))
    yield "<table><caption>Answers</caption><thead><tr>"
    yield '<th scope="col">Status</th><th scope="col">Meaning</th><th scope="col">Body</th>'
    yield "</tr></thead><tbody>"
    for status, answer in operation["responses"].items():
        kinds = ", ".join(answer["content"])
        yield f'<tr><th scope="row">{escape(status)}</th><td>{escape(answer["description"])}</td>'
        yield f"<td><code>{escape(kinds)}</code></td></tr>"
    yield "</tbody></table></section>"


def _members(schema: dict[str, Any], document: dict[str, Any]) -> list[dict[str, Any]]:
    """The members of an object, told like parameters."""
    told = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    required = told.get("required", [])
    return [
        {
            "name": name,
            "schema": member,
            "description": member.get("description", ""),
            "required": name in required,
        }
        for name, member in told["properties"].items()
    ]


def _inputs(caption: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><caption>{escape(caption)}</caption><thead><tr>"
    yield '<th scope="col">Key</th><th scope="col">Kind</th><th scope="col">Meaning</th>'
    yield "</tr></thead><tbody>"
    for one in rows:
        need = "required" if one.get("required") else "optional"
        yield f'<tr><th scope="row"><code>{escape(one["name"])}</code></th>'
        yield f"<td>{escape(_kind(one['schema']))}, {need}</td>"
        yield f"<td>{_prose(one.get('description', ''))}</td></tr>"
    yield "</tbody></table>"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(str(one["type"]) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = str(schema.get("type", "any"))
    if "default" in schema:
        kind += f" (default {schema['default']!r})"
    return kind


def _prose(text: str) -> str:
    """Escaped text, what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
