"""Routes for WSGI, as small as possible."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

Environ = dict[str, Any]


@dataclass
class Response:
    """An answer: status, media type, body, more headers."""

    body: bytes
    media_type: str = "text/plain; charset=utf-8"
    status: HTTPStatus = HTTPStatus.OK
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Environ], Response]


class App:
    """A WSGI application made of routes."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], Handler] = {}

    def route(self, method: str, path: str) -> Callable[[Handler], Handler]:
        """Register the decorated function for ``method path``."""

        def register(handler: Handler) -> Handler:
            self.routes[method, path] = handler
            return handler

        return register

    def answer(self, environ: Environ) -> Response:
        """The response to a request."""
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO") or "/"
        handler = self.routes.get((method, path))
        if handler is not None:
            return handler(environ)
        known = any(route[1] == path for route in self.routes)
        status = HTTPStatus.METHOD_NOT_ALLOWED if known else HTTPStatus.NOT_FOUND
        return Response(f"{status.phrase}\n".encode(), status=status)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = self.answer(environ)
        headers = {
            "Content-Type": response.media_type,
            "Content-Length": str(len(response.body)),
            **response.headers,
        }
        start_response(f"{response.status.value} {response.status.phrase}", list(headers.items()))
        return [response.body]
