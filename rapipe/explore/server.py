"""The explorer's server: a page, its files, and answers in JSON.

It answers this machine's own browser: a request for another host name, or from a page of another
origin, is refused. It serves the page's files and images by their ids, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rapipe.errors import UserError
from rapipe.explore.about import about
from rapipe.explore.explorer import Explorer
from rapipe.explore.map_data import MapData, packed
from rapipe.explore.mistakes import mistakes
from rapipe.explore.project import png
from rapipe.explore.questions import Question, id_of

MOST_UPLOADED, MOST_ASKED = 32 * 2**20, 2**20
"""Bytes of an image that is brought, and of a question."""
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
DAY = {"Cache-Control": "private, max-age=86400"}


class TooLargeError(UserError):
    """A body has more bytes than it may."""


def page_files() -> dict[str, bytes]:
    """The files of the page, by name."""
    folder = resources.files("rapipe.explore") / "page"
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.name.endswith(tuple(KINDS))
    }


class SameOrigin:
    """Lets only requests pass that are for this server and from its own page.

    Args:
        hosts: `name:port` that browsers may call it by; none for any, where other machines may.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (mistake := self._mistake(Request(scope))):
            await JSONResponse({"error": mistake}, 403, HEADERS)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _mistake(self, request: Request) -> str:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        if self.hosts and host not in self.hosts:
            return f"this server is not called {host!r}"
        if origin is not None and origin.partition("://")[2] != host:
            return f"pages of {origin} may not ask this server"
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return "pages of other sites may not ask this server"
        return ""


def application(
    explorer: Explorer, draw_map: Callable[[], MapData], hosts: frozenset[str]
) -> Starlette:
    """The server.

    Args:
        draw_map: called once, when somebody wants the map.
        hosts: as of `SameOrigin`.
    """
    handlers = Handlers(explorer, draw_map)
    routes = [
        Route("/", handlers.page),
        Route("/page/{name}", handlers.page),
        Route("/picture/{image}.png", handlers.picture),
        Route("/api/about", handlers.about),
        Route("/api/upload", handlers.upload, methods=["POST"]),
        Route("/api/ask", handlers.ask, methods=["POST"]),
        Route("/api/mistakes/{classifier}", handlers.mistakes),
        Route("/api/map", handlers.map_facts),
        Route("/api/map.bin", handlers.map_points),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(SameOrigin, hosts=hosts)],
        exception_handlers={UserError: explained},
    )


async def explained(_: Request, error: Exception) -> Response:
    """A user's mistake as a sentence."""
    status = 413 if isinstance(error, TooLargeError) else 400
    return JSONResponse({"error": str(error)}, status, HEADERS)


class Handlers:
    """What is done for each address; whatever computes does so in a thread."""

    def __init__(self, explorer: Explorer, draw_map: Callable[[], MapData]) -> None:
        self.explorer, self.files = explorer, page_files()
        self.mistakes_of = cache(lambda name: mistakes(explorer, name))
        self.about_facts = cache(lambda: about(explorer.project))
        self.map_of = cache(lambda: self._packed(draw_map))

    def _packed(self, draw_map: Callable[[], MapData]) -> tuple[bytes, dict[str, object]]:
        with self.explorer.lock:
            return packed(draw_map(), len(self.explorer.memory.classes))

    async def page(self, request: Request) -> Response:
        """The page, or one of its files."""
        name = request.path_params.get("name", "index.html")
        if name not in self.files:
            return JSONResponse({"error": f"there is no {name!r}"}, 404, HEADERS)
        kind = next(kind for suffix, kind in KINDS.items() if name.endswith(suffix))
        return Response(self.files[name], headers=HEADERS, media_type=kind)

    async def picture(self, request: Request) -> Response:
        """An image by its id."""
        try:
            image_id = id_of(request.path_params["image"], "image")
            image = await run_in_threadpool(self.explorer.image, image_id)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 404, HEADERS)
        return Response(png(image.pixels[0]), headers={**HEADERS, **DAY}, media_type="image/png")

    async def about(self, _: Request) -> Response:
        """What there is to ask."""
        return as_json(await run_in_threadpool(self.about_facts))

    async def upload(self, request: Request) -> Response:
        """Keep an image: the body is its file."""
        data = await body_of(request, MOST_UPLOADED, "an image")
        image = await run_in_threadpool(self.explorer.upload, data)
        return as_json({"image": str(image)})

    async def ask(self, request: Request) -> Response:
        """Answer a question."""
        data = await body_of(request, MOST_ASKED, "a question")
        try:
            facts = json.loads(data)
        except (ValueError, RecursionError):
            raise UserError("a question must be JSON") from None
        answer = await run_in_threadpool(self.explorer.ask, Question.of_json(facts))
        return as_json(with_picture(answer))

    async def mistakes(self, request: Request) -> Response:
        """All test images with the answers of a classifier."""
        return as_json(await run_in_threadpool(self.mistakes_of, request.path_params["classifier"]))

    async def map_facts(self, _: Request) -> Response:
        """What the points are."""
        return as_json((await run_in_threadpool(self.map_of))[1])

    async def map_points(self, _: Request) -> Response:
        """The points."""
        data = (await run_in_threadpool(self.map_of))[0]
        return Response(data, headers=HEADERS, media_type="application/octet-stream")


def as_json(facts: Any) -> Response:
    """An answer."""
    return JSONResponse(facts, headers=HEADERS)


def with_picture(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose picture is an address that holds it."""
    from base64 import b64encode

    return {**answer, "picture": "data:image/png;base64," + b64encode(answer["picture"]).decode()}


async def body_of(request: Request, most: int, what: str) -> bytes:
    """The body of a request; `TooLargeError` as soon as it is too long."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise TooLargeError(f"{what} may have {most // 2**20} MB at most")
        parts.append(part)
    return b"".join(parts)
