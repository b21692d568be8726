"""Stands before the application: asks for the token, counts requests, ends connections whose body is not read."""

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sharedq.serving.limits import Limits
from sharedq.serving.metrics import Metrics

OPEN = ("/", "/docs", "/openapi.json", "/health")  # these say nothing of the agent, and need no token
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")  # by which a browser on this machine reaches it


class Guard:
    """An application of ASGI around another one."""

    def __init__(self, app: Any, metrics: Metrics, token: str | None, paths: frozenset[str], close: Callable[[], None]):
        """Metrics name these `paths` only. `close` ends what works for the application."""
        self._app, self._metrics, self._token = app, metrics, token and token.encode()
        self._paths, self.close = paths, close

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status, whole = time.perf_counter(), 500, False

        async def received() -> Any:
            nonlocal whole
            message = await receive()
            whole = whole or not message.get("more_body", False)
            return message

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not whole and _has_body(scope):  # what is left of the body is not read as a request
                    message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        refused = self._refused(scope)
        try:
            await (refused or self._app)(scope, received, sent)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.add(path, status, time.perf_counter() - begun)

    def _refused(self, scope: Any) -> JSONResponse | None:
        headers = dict(scope["headers"])
        if self._token is None:
            name = headers.get(b"host", b"").decode("latin-1")
            host = name if name.endswith("]") else name.rpartition(":")[0] or name
            if host.lower() not in OWN_NAMES:
                # A page of another site can let its own name lead to this machine, and would read every answer.
                return _line(421, f"this server answers to {', '.join(OWN_NAMES)} only: start it with a token")
            return None
        if scope["path"] in OPEN:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return None
        return _line(401, "send the token as  Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _line(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _has_body(scope: Any) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and v != b"0") for name, v in scope["headers"]
    )


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, with bounds on the size and the time of what comes before a body."""

    class BoundedProtocol(HttpToolsProtocol):
        _before_body = True
        _passed = False  # whether a head or a body ended in the data that came last
        _size = 0  # bytes of the head so far
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._before_body and self._timer is None:
                self._arm()
            self._passed = False
            super().data_received(data)
            self._size = 0 if self._passed or not self._before_body else self._size + len(data)
            if self._size > limits.head and not self.transport.is_closing():
                self.send_400_response(f"The head of a request has at most {limits.head} bytes.")

        def on_headers_complete(self) -> None:
            self._before_body, self._passed = False, True
            self._disarm()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._before_body = self._passed = True
            super().on_message_complete()

        def _arm(self) -> None:
            self._timer = self.loop.call_later(limits.head_seconds, self._late)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            if not self.transport.is_closing():
                self.transport.close()

    return BoundedProtocol
