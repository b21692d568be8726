"""The queue between actors and a learner, in Redis or valkey: a list of blocks, and a few values that all read.

Redis keeps what is in flight only. If it is restarted, blocks that nobody took are lost, and the learner publishes its
values again.
"""

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from sharedq.errors import EnvironmentFailed, SharedqError, missing_extra, reason

PASSWORD = "REDISCLI_AUTH"  # the environment variable that redis-cli reads too
RETRIES = 20  # ours, with waits of up to a second: a restart takes less
ANSWERED_IN = 30  # ours: the most seconds for one answer


class Full(SharedqError):
    """The queue has no memory left."""


class Unreachable(EnvironmentFailed):
    """The queue does not answer."""


class Queue(Protocol):
    """What actors and learner need. A test has one in memory."""

    def push(self, block: bytes) -> int:
        """Appends a block; returns how many wait. Raises `Full` if there is no memory for it."""

    def pop(self, count: int) -> list[bytes]:
        """Takes at most `count` blocks, the oldest first."""

    def waiting(self) -> int:
        """How many blocks wait."""

    def put(self, name: str, value: bytes) -> None:
        """Publishes a value. Raises `Full` if there is no memory for it."""

    def get(self, name: str) -> bytes | None:
        """A published value, if it is there."""


class RedisQueue:
    """The queue at a URL. Its keys begin with `name`, so that several runs can share a server."""

    def __init__(self, url: str, name: str):
        redis = _imported()
        self._redis, self._url, self._name = redis, url, name
        check_url(url)
        retry = redis.retry.Retry(redis.backoff.ExponentialBackoff(cap=1), RETRIES)
        options: dict[str, Any] = {"password": os.environ.get(PASSWORD), "socket_timeout": ANSWERED_IN}
        once = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        with self._errors():
            asked = redis.Redis.from_url(url, retry=once, socket_connect_timeout=5, **options)
            asked.ping()
            asked.close()
        self._client = redis.Redis.from_url(url, retry=retry, **options)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the errors of Redis into one line each."""
        errors = self._redis.exceptions
        try:
            yield
        except errors.OutOfMemoryError:
            raise Full(f"Redis at {self._url} has reached its maxmemory") from None
        except (errors.AuthenticationError, errors.NoPermissionError) as error:
            told = f"Redis at {self._url} refuses ({reason(error)}): give its password in {PASSWORD}"
            raise SharedqError(told) from None
        except (errors.ConnectionError, errors.TimeoutError) as error:
            told = f"Redis at {self._url} does not answer ({reason(error)}): start it, or correct the address"
            raise Unreachable(told) from None
        except (errors.RedisError, ValueError) as error:
            raise SharedqError(f"Redis at {self._url} refuses: {reason(error)}") from None

    def push(self, block: bytes) -> int:
        with self._errors():
            return int(self._client.rpush(f"{self._name}:blocks", block))

    def pop(self, count: int) -> list[bytes]:
        with self._errors():
            return self._client.lpop(f"{self._name}:blocks", int(count)) or []

    def waiting(self) -> int:
        with self._errors():
            return int(self._client.llen(f"{self._name}:blocks"))

    def put(self, name: str, value: bytes) -> None:
        with self._errors():
            self._client.set(f"{self._name}:{name}", value)

    def get(self, name: str) -> bytes | None:
        with self._errors():
            return self._client.get(f"{self._name}:{name}")


def _imported() -> Any:
    try:
        import redis
        import redis.backoff
        import redis.exceptions
        import redis.retry
    except ImportError:
        raise missing_extra("redis", "redis", "training with remote actors") from None
    return redis


def check_url(url: str) -> None:
    """Raises if a URL is none of Redis, or if it has a password, which would be kept in the run."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, known = urlsplit(""), False
    if not known and not (parts.scheme == "unix" and parts.path):
        raise SharedqError(f"training.url must be like redis://127.0.0.1:6379/0, not {url.rpartition('@')[2]}")
    if parts.password:
        raise SharedqError(f"training.url has a password, which the run would keep: give it in {PASSWORD} instead")


def is_exposed(url: str) -> bool:
    """Whether the messages travel through a network without encryption."""
    parts = urlsplit(url)
    if parts.scheme != "redis" or parts.hostname == "localhost":
        return False
    try:
        return not ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return True
