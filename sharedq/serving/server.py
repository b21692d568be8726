"""The server: its address, its token, and how it stops."""

import contextlib
import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sharedq import runtime
from sharedq.errors import SharedqError, Stopped, missing_extra, reason

TOKEN = "SHAREDQ_TOKEN"  # the variable of the environment
SHORTEST, LONGEST = 16, 512  # ours: characters of a token
HOW = f"give --token-file FILE, or set {TOKEN}"


def serve(
    path: Path,
    host: str,
    port: int,
    token_file: Path | None = None,
    play: bool = False,
    seed: int = 0,
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serves the agent of a file until a signal stops the server. Every request that was accepted is answered."""
    agent = load(path)
    token = read_token(token_file)
    with bound(host, port, token is not None) as listening:
        for package in ("fastapi", "uvicorn", "httptools", "uvloop"):
            try:
                __import__(package)
            except ImportError:
                raise missing_extra(package, "serve", "serving") from None
        game = _game(agent, seed, trust) if play else None
        server = new_server(agent, token, game)
        address, chosen = listening.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        needs = ", for those who send its token" if token else ""
        say(f"{agent!r} is at http://{shown}:{chosen}{needs}; Ctrl-C stops it")
        server.run(sockets=[listening])
    if server.force_exit:
        raise Stopped("stopped at once, without the answers that were still due", server.stopped_by)
    say("stopped")


def load(path: Path) -> runtime.Agent:
    """The agent of a file, which was tried once."""
    try:
        agent = runtime.load(path)
        observation = agent.spec["observation"]
        found = agent.outputs(np.zeros((2, *observation["shape"]), observation["dtype"]))
        actions = agent.spec["actions"]
        if actions["kind"] == "discrete":
            sizes = (len(actions["sizes"]),) if actions.get("sizes") else ()
            heads = found["head_values"].shape[1]
            wanted = {"action": (2, *sizes), "values": (2, actions["n"]), "head_values": (2, heads, actions["n"])}
        else:
            wanted = {"action": (2, *np.shape(actions["low"]))}
        if (shapes := {name: each.shape for name, each in found.items()}) != wanted:
            raise ValueError(f"it gives arrays of {shapes}, and its description asks for {wanted}")
        json.dumps(agent.metadata, allow_nan=False)  # clients are told some of it
    except runtime.AgentError as error:
        raise SharedqError(str(error)) from None
    except Exception as error:  # onnxruntime has an exception of its own for each kind of failure
        raise SharedqError(f"{path} is no agent that can be served ({reason(error)}): export it again") from None
    return agent


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment; None if neither is given."""
    if file is not None:
        try:
            with file.open(encoding="utf-8") as opened:
                token, where = opened.read(LONGEST + 2).strip(), str(file)
        except (OSError, UnicodeDecodeError) as error:
            raise SharedqError(
                f"the token of {file} cannot be read: {getattr(error, 'strerror', reason(error))}"
            ) from None
    elif TOKEN in os.environ:
        token, where = os.environ[TOKEN], TOKEN
    else:
        return None
    if not (SHORTEST <= len(token) <= LONGEST and token.isascii() and token.isprintable() and " " not in token):
        raise SharedqError(
            f"the token of {where} must have {SHORTEST} to {LONGEST} letters, digits and signs, no spaces"
        )
    return token


def bound(host: str, port: int, has_token: bool) -> contextlib.closing[socket.socket]:
    """A socket at this address. Raises if it is in use, or reached by other machines without a token."""
    if not 0 <= port <= 65_535:
        raise SharedqError(f"--port is a number from 0 to 65535, not {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise SharedqError(f"the host '{host}' is not known ({reason(error)}): give --host an address") from None
    if not has_token and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise SharedqError(f"other machines reach {host}, so that a token is needed: {HOW}, or use --host 127.0.0.1")
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(512)  # here, so that an address in use is found before anything is said
    except OSError as error:
        listening.close()
        raise SharedqError(
            f"cannot listen at {host}:{port} ({error.strerror}): choose another --port, or 0 for a free one"
        ) from None
    return contextlib.closing(listening)


def new_server(agent: runtime.Agent, token: str | None = None, game: Any = None, base: Any = None) -> Any:
    """A server of uvicorn that stops as we promise, within the limits of the agent or these smaller ones."""
    import uvicorn

    from sharedq.serving.application import application
    from sharedq.serving.guard import protocol_with
    from sharedq.serving.limits import limits_for

    class Server(uvicorn.Server):
        stopped_by = signal.SIGINT

        def handle_exit(self, sig: int, frame: Any) -> None:
            """The first signal lets what was accepted be answered, and a second one stops at once."""
            self.force_exit, self.should_exit = self.should_exit, True
            self.stopped_by = signal.Signals(sig)
            logging.getLogger("uvicorn.error").disabled = self.force_exit  # it would log every request that is cut off

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            if not self.force_exit:
                await app.close()

    limits = limits_for(agent.spec, base)
    longest = max(limits.body_seconds + limits.answer_seconds, limits.game_seconds if game else 0) + limits.send_seconds
    app = application(agent, limits, token, game)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # mistakes of clients are counted, and not logged
    config = uvicorn.Config(
        app,
        http=protocol_with(limits),
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=round(longest + 1),
    )
    server = Server(config)
    app.connections = server.server_state.connections
    return server


def _game(agent: runtime.Agent, seed: int, trust: bool) -> Any:
    """The game on the page. Only this imports JAX."""
    try:
        from sharedq.serving.player import Player
    except ModuleNotFoundError as error:
        raise SharedqError(
            f"--play needs the package '{error.name}': install sharedq with what it trains with"
        ) from None
    return Player(agent, seed, trust)
