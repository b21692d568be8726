"""Stands before the application: asks for the token, counts requests, and ends connections that take too long."""

import asyncio
import hmac
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sized
from typing import Any

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from sharedq.serving.limits import Limits
from sharedq.serving.metrics import Metrics

OPEN = ("/", "/docs", "/openapi.json", "/health")  # these say nothing of the agent, and need no token
OWN_NAMES = ("localhost", "127.0.0.1", "[::1]")  # by which a browser on this machine reaches it


class Guard:
    """An application of ASGI around another one."""

    connections: Sized = ()  # those that are open; the server sets it

    def __init__(
        self,
        app: Any,
        metrics: Metrics,
        token: str | None,
        paths: frozenset[str],
        max_connections: int,
        close: Callable[[], Awaitable[None]],
    ):
        """Metrics name these `paths` only. `close` ends what works for the application."""
        self._app, self._metrics, self._token = app, metrics, token and token.encode()
        self._paths, self._max_connections, self.close = paths, max_connections, close

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
        if len(self.connections) > self._max_connections:
            told = {"Retry-After": "1", "Connection": "close"}
            return _line(503, f"{self._max_connections} connections are open: try again", told)
        headers = dict(scope["headers"])
        if self._token is None:
            name = headers.get(b"host", b"").decode("latin-1")
            host = name if name.endswith("]") else name.rpartition(":")[0] or name
            address = scope["server"][0]  # of this machine: the one to which the client connected
            names = {*OWN_NAMES, f"[{address}]" if ":" in address else address}
            if host.lower() not in names:
                # A page of another site can let its own name lead to this machine, and would read every answer.
                return _line(421, f"this server answers to {', '.join(sorted(names))} only: start it with a token")
            return None
        if scope["path"] in OPEN:
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return None
        which = "another token was sent: " if scheme.lower() == b"bearer" and given else ""
        return _line(401, f"{which}send the token as  Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _line(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _has_body(scope: Any) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and v != b"0") for name, v in scope["headers"]
    )


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, with bounds on the size of heads and trailers, and on the time to send and to receive."""

    class BoundedProtocol(HttpToolsProtocol):
        _before_body = True
        _passed = False  # whether a head or a body ended in the data that came last, or some of a body was in it
        _size = 0  # bytes so far of a head, of trailers, or of the extensions of a chunk
        _timer: asyncio.TimerHandle | None = None
        _unsent: asyncio.TimerHandle | None = None  # it runs while the client has to take what was sent

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **kwargs)
            self._unanswered: deque[RequestResponseCycle] = deque()  # a client may send requests before it has answers

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            self._taken()
            for cycle in self._unanswered:  # uvicorn tells only the newest, and the others would write to nobody
                cycle.disconnected = True
                cycle.message_event.set()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._before_body and self._timer is None:
                self._arm()
            self._passed = False
            super().data_received(data)
            self._size = 0 if self._passed else self._size + len(data)
            if self._size > limits.head and not self.transport.is_closing():
                self.send_400_response(f"The head of a request has at most {limits.head} bytes.")

        def on_body(self, body: bytes) -> None:
            self._passed = True
            super().on_body(body)

        def on_headers_complete(self) -> None:
            self._before_body, self._passed = False, True
            self._disarm()
            super().on_headers_complete()
            self._unanswered.append(self.cycle)

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
                self._sending()

        # A connection that is closed still sends what it holds, so that these wait for the client there too.

        def pause_writing(self) -> None:
            super().pause_writing()
            self._sending()

        def resume_writing(self) -> None:
            super().resume_writing()
            if not self.transport.is_closing():
                self._taken()

        def on_response_complete(self) -> None:
            self._unanswered.popleft()
            super().on_response_complete()
            if self.transport.is_closing():
                self._sending()

        def send_400_response(self, msg: str) -> None:
            super().send_400_response(msg)
            self._sending()

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._sending()

        def shutdown(self) -> None:
            super().shutdown()
            if self.transport.is_closing():
                self._sending()

        def _sending(self) -> None:
            if self._unsent is None:
                self._unsent = self.loop.call_later(limits.send_seconds, self.transport.abort)

        def _taken(self) -> None:
            if self._unsent is not None:
                self._unsent.cancel()
                self._unsent = None

    return BoundedProtocol
