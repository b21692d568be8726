"""The application: what each address answers."""

import asyncio
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from starlette.requests import ClientDisconnect

from sharedq.errors import SharedqError, reason
from sharedq.runtime import Agent, AgentError
from sharedq.serving.batching import Batcher, Decisions, Failed, Full, mixes_rows, one_by_one
from sharedq.serving.guard import Guard
from sharedq.serving.limits import Limits
from sharedq.serving.metrics import Metrics
from sharedq.serving.observations import BYTES, JSON, ParsedBody, Unusable, own_actions, read, rule_of
from sharedq.serving.page import DOCS_POLICY, POLICY, docs_page, page

SILENT: Any = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}  # FastAPI sends nothing away
CLOSING = 2.0  # seconds that a game has to close when the server stops
LARGE = 65_536  # bytes of a body that is read in another thread, so that others do not wait for it
PATHS = ("/", "/act", "/values", "/health", "/metrics", "/agent", "/play", "/docs", "/openapi.json")
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
ABOUT = (
    "Observations are sent as JSON, one or several, or as the raw bytes of one or several in little-endian order. "
    "A mistake is answered with one line in `detail`."
)
OBSERVATION: dict[str, Any] = {"description": "numbers, in lists of the agent's shape (see /agent)"}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": ["observation"], "properties": {"observation": OBSERVATION}},
                        {
                            "type": "object",
                            "required": ["observations"],
                            "properties": {"observations": {"type": "array", "items": OBSERVATION}},
                        },
                    ]
                }
            },
            BYTES: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
RULES = {
    "parameters": [
        {"name": "softmax", "in": "query", "schema": {"type": "number", "exclusiveMinimum": 0}},
        {"name": "epsilon", "in": "query", "schema": {"type": "number", "minimum": 0, "maximum": 1}},
    ]
}
MISTAKES: dict[int | str, dict[str, Any]] = {
    401: {"description": "the token is missing or another one"},
    408: {"description": "the body took too long"},
    413: {"description": "the body is too large"},
    415: {"description": "the body has another content type"},
    422: {"description": "the body or the query cannot be used"},
    500: {"description": "the agent or the game failed"},
    503: {"description": "too many requests wait: try again"},
    504: {"description": "the decision or the game took too long"},
}


class Game(Protocol):
    """A game that the agent plays on the page."""

    names: tuple[str, ...] | None  # of the actions

    def observation(self) -> np.ndarray:
        """What the agent sees now [1, ...]. The first call opens the environment."""

    def step(self, action: np.ndarray) -> None:
        """Does an action [1, ...] in the environment's own form."""

    def frame(self) -> dict[str, Any]:
        """What the page shows of this moment."""

    def close(self) -> None: ...


def application(agent: Agent, limits: Limits, token: str | None = None, game: Game | None = None) -> Guard:
    """The application of ASGI."""
    actions = agent.spec["actions"]
    is_discrete = actions["kind"] == "discrete"
    metrics, rng = Metrics(), np.random.default_rng()
    observation = agent.spec["observation"]
    form = tuple(observation["shape"]), np.dtype(observation["dtype"])
    decide = one_by_one(agent.outputs) if mixes_rows(agent.outputs, *form) else agent.outputs
    batcher = Batcher(decide, limits.max_batch_size, limits.max_queue)
    bodies = Bodies(limits)
    playing, spectators = asyncio.Lock(), 0
    game_thread = OneThread("game")
    in_game = game_thread.run

    async def close() -> None:
        batcher.stop()
        if game is not None:
            with suppress(Exception):  # it hangs or has failed, and the server ends all the same
                async with asyncio.timeout(CLOSING):
                    await in_game(game.close)
        game_thread.stop()

    app = FastAPI(
        title="sharedq serve",
        description=ABOUT,
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # it would answer with an address that the request itself names
        telemetry=SILENT,
    )

    async def given_in(request: Request) -> ParsedBody:
        kind = content_type(request)
        if kind not in (JSON, BYTES):
            raise HTTPException(415, f"send the observation as {JSON} or as {BYTES}, not as {kind[:60] or 'nothing'!r}")
        async with bodies.read(request) as body:
            arguments = (agent, kind, body, limits.max_batch_size)
            return await asyncio.to_thread(read, *arguments) if len(body) > LARGE else read(*arguments)

    async def decided(batch: np.ndarray) -> Decisions:
        try:
            async with asyncio.timeout(limits.answer_seconds):
                found = await batcher.ask(batch)
        except Full:
            raise HTTPException(503, f"{limits.max_queue} observations wait: try again", {"Retry-After": "1"}) from None
        except Failed as error:
            raise HTTPException(500, f"the agent failed: {error}") from None
        except TimeoutError:
            raise HTTPException(504, f"there was no decision within {limits.answer_seconds:g} seconds") from None
        if not all(np.isfinite(each).all() for each in found.values()):
            raise HTTPException(500, "the agent gave a number that is not finite")
        return found

    @app.exception_handler(Unusable)
    async def unusable(request: Request, error: Unusable) -> Response:
        return as_json({"detail": str(error)}, 422)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        """Answers a mistake of ours, which is also logged."""
        return as_json({"detail": f"the server failed ({type(error).__name__})"}, 500)

    @app.post(
        "/act",
        summary="The action for one observation, or for several.",
        openapi_extra=BODY | RULES,
        responses=MISTAKES,
    )
    async def act(request: Request) -> Response:
        """Without a rule the action is the best one. `?softmax=TEMPERATURE` and `?epsilon=PROBABILITY` draw one of
        several, and tell the probability of each. With `Accept: application/octet-stream` the answer is the raw bytes
        of the actions alone, without probabilities."""
        rule = rule_of(request.query_params, is_discrete)
        given = await given_in(request)
        found = await decided(given.batch)
        chosen, more = found["action"], {}
        if rule is not None:
            probabilities = rule.probabilities(found["values"])
            draws = rng.random((len(probabilities), 1))
            places = (probabilities.cumsum(axis=1) <= draws).sum(axis=1).clip(max=probabilities.shape[1] - 1)
            chosen, more = own_actions(actions, places), {"probabilities": probabilities}
        if BYTES in request.headers.get("accept", ""):
            return Response(chosen.astype(chosen.dtype.newbyteorder("<")).tobytes(), media_type=BYTES)
        return as_json(named({"action": chosen, **more}, given.is_one))

    @app.post(
        "/values", summary="The values of all actions, and those of every head.", openapi_extra=BODY, responses=MISTAKES
    )
    async def values(request: Request) -> Response:
        """`values` are those that the agent follows, and `head_values` those of each head that learns."""
        if not is_discrete:
            raise HTTPException(404, "this agent has no values: its actions are continuous")
        if request.query_params:
            raise Unusable("/values takes no rule: ask /act for an action that is drawn")
        given = await given_in(request)
        found = await decided(given.batch)
        return as_json(named(found, given.is_one))

    @app.get("/health", summary="Whether the server answers.")
    async def health() -> Response:
        if not batcher.is_alive:
            raise HTTPException(503, "the thread that decides has ended: start the server again")
        return as_json({"status": "ok"})

    @app.get("/metrics", summary="Counts in the text format of Prometheus.")
    async def count() -> Response:
        text = metrics.text(batcher.batch_sizes, batcher.waiting)
        return Response(text, media_type="text/plain; version=0.0.4")

    described = description(agent, game)

    @app.get("/agent", summary="What the agent is, and the form of its observations and actions.")
    async def about() -> Response:
        return as_json(described)

    @app.post("/play", summary="Plays one step of the game that the page shows.")
    async def play(request: Request) -> Response:
        """The answer has the picture of the moment, the agent's values and the action that it does next. All who watch
        share one game."""
        nonlocal spectators
        if game is None:
            raise HTTPException(404, "no game is open: start the server with --play")
        if content_type(request) != JSON:  # what a page of another site cannot send without asking first
            raise HTTPException(415, f"send an empty body as {JSON}")
        if spectators >= limits.spectators:
            raise HTTPException(503, "too many wait for the next step: try again", {"Retry-After": "1"})
        spectators += 1
        try:
            async with asyncio.timeout(limits.game_seconds), playing:
                observation, _ = agent.batch_of(await in_game(game.observation))
                found = await decided(observation)
                frame = await in_game(game.frame)
                await in_game(game.step, found["action"])
        except AgentError as error:
            raise HTTPException(500, f"the agent cannot see the game: {error}") from None
        except SharedqError as error:
            raise HTTPException(500, reason(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"the game did not go on within {limits.game_seconds:g} seconds") from None
        finally:
            spectators -= 1
        return as_json(frame | {"observation": short(observation[0])} | named(found, True))

    @app.get("/", include_in_schema=False)
    async def shown() -> Response:
        return Response(page(), media_type="text/html", headers=SAFE | {"Content-Security-Policy": POLICY})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        told = docs_page(app.openapi())
        return Response(told, media_type="text/html", headers=SAFE | {"Content-Security-Policy": DOCS_POLICY})

    return Guard(app, metrics, token, frozenset(PATHS), limits.connections, close)


def description(agent: Agent, game: Game | None) -> dict[str, Any]:
    """What a client needs to know of the agent. The experiment stays in the file."""
    told = {name: agent.metadata.get(name) for name in ("label", "algorithm", "seed", "step", "return", "precision")}
    names = list(game.names) if game is not None and game.names else None
    spec = agent.spec
    return told | {
        "environment": spec["name"],
        "observation": spec["observation"],
        "actions": spec["actions"],
        "action_names": names,
        "play": game is not None,
    }


def content_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class OneThread:
    """Runs functions in one thread, because what draws pictures may belong to the thread that opened it.

    It is a daemon, so that a game that hangs does not hold the process. An executor of Python would wait for it.
    """

    def __init__(self, name: str):
        self._calls: queue.SimpleQueue[tuple[Future, Callable[..., Any], tuple] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        future: Future[Any] = Future()
        self._calls.put((future, function, arguments))
        return await asyncio.wrap_future(future)

    def stop(self) -> None:
        """Ends the thread after the functions that it was given."""
        self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            future, function, arguments = call
            if future.set_running_or_notify_cancel():  # a request that gave up has cancelled its call
                try:
                    future.set_result(function(*arguments))
                except BaseException as error:
                    future.set_exception(error)


MOST_SHOWN = 64  # numbers of an observation that the page shows


def short(observation: np.ndarray) -> list[float] | None:
    """The numbers of a small observation."""
    return observation.ravel().tolist() if observation.size <= MOST_SHOWN else None


def named(found: Decisions, is_one: bool) -> dict[str, Any]:
    """Arrays in a form for JSON: of one observation, or lists under the plural."""
    if is_one:
        return {name: each[0].tolist() for name, each in found.items()}
    return {("actions" if name == "action" else name): each.tolist() for name, each in found.items()}


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False, separators=(",", ":")), status, media_type=JSON, headers=SAFE)


class Bodies:
    """Reads the bodies of requests. Each is bounded in size and time, and all of them together in size."""

    def __init__(self, limits: Limits):
        self._limits, self._held = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request. It counts as held until the context ends."""
        limits, size = self._limits, 0
        chunks: list[bytes] = []
        try:
            try:
                async with asyncio.timeout(limits.body_seconds):
                    async for chunk in request.stream():
                        size += len(chunk)
                        if size > limits.body + limits.dropped:
                            break
                        if size > limits.body:  # what still comes is dropped, so that the sender hears the answer
                            self._held -= sum(map(len, chunks))
                            chunks.clear()
                            continue
                        chunks.append(chunk)
                        self._held += len(chunk)
                        if self._held > limits.bodies:
                            raise HTTPException(503, "too many bodies are being read: try again", {"Retry-After": "1"})
            except TimeoutError:
                raise HTTPException(408, f"the body did not come within {limits.body_seconds:g} seconds") from None
            except ClientDisconnect:
                raise HTTPException(499, "the client has gone") from None  # nobody reads this, but it is counted
            if size > limits.body:
                raise HTTPException(413, f"the body is larger than {limits.body:,} bytes")
            yield b"".join(chunks)
        finally:
            self._held -= sum(map(len, chunks))
