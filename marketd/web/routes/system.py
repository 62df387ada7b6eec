"""Health, readiness, metrics and the description of the interface itself."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from marketd.encoding import to_json
from marketd.web import answers, schemas
from marketd.web.keys import DOCS_PAGE, LOADER, METRICS, OPENAPI, READINESS
from marketd.web.validation import operation, takes


@operation(
    "system",
    "Whether the process lives",
    query=schemas.NoQuery,
    answers={200: (answers.StateOut, "It does.")},
)
async def get_healthz(request: web.Request) -> web.Response:
    return web.Response(body=to_json({"status": "ok"}), content_type="application/json")


@operation(
    "system",
    "Whether the daemon can answer",
    query=schemas.NoQuery,
    answers={200: (answers.ReadyOut, "It can."), 503: (answers.ReadyOut, "Not yet, or not any more.")},
    description="Ready means that the store is open and takes writes, and the plugins are loaded. "
    "`message` says why not; what is stored is served all the same. A plugin or provider that failed is "
    "listed and does not make the daemon unready; nor does a Redis that is away, while which `nodes` is "
    "`alone`.",
)
async def get_readyz(request: web.Request) -> web.Response:
    loader = request.app[LOADER]
    readiness = request.app[READINESS]
    ready = readiness.is_ready
    providers = [
        {"provider": name, "state": one.health.state, "message": one.health.message}
        for name, one in loader.providers.items()
    ]
    providers += [
        {"provider": name, "state": "failed", "message": reason}
        for name, reason in loader.failed_providers.items()
    ]
    plugins = [
        {
            "plugin": report.name,
            "package": report.package,
            "version": report.version,
            "provides": list(report.provides),
            "error": report.error,
        }
        for report in loader.reports
    ]
    state, reason = readiness.nodes
    body = {
        "status": "ready" if ready else "not_ready",
        "message": readiness.reason,
        "nodes": {"state": state, "message": reason},
        "plugins": plugins,
        "providers": providers,
    }
    return web.Response(
        body=to_json(body), content_type="application/json", status=200 if ready else 503
    )


@operation(
    "system",
    "Prometheus metrics",
    query=schemas.NoQuery,
    answers={},
    produces=["text/plain"],
)
async def get_metrics(request: web.Request) -> web.Response:
    body = generate_latest(request.app[METRICS].registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


@operation(
    "system",
    "This description, as OpenAPI 3.1",
    query=schemas.NoQuery,
    answers={},
)
async def get_openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


@operation(
    "system",
    "This description, as a page",
    query=schemas.NoQuery,
    answers={},
    produces=["text/html"],
)
async def get_docs(request: web.Request) -> web.Response:
    return web.Response(text=request.app[DOCS_PAGE], content_type="text/html")


@takes(schemas.NoQuery)
async def get_root(request: web.Request) -> web.Response:
    """The first screen of a browser is the description of what can be asked."""
    return web.Response(status=302, headers={"Location": "/docs"})
