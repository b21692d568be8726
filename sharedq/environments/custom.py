"""A user's own JAX environment, named by an import string and checked against the contract before it is used."""

from dataclasses import dataclass

from sharedq.environments.contract import Environment, check
from sharedq.errors import SharedqError
from sharedq.imports import resolve


@dataclass(frozen=True)
class Custom:
    """A user's own environment that lives on the device, by where its factory is."""

    factory: str = ""  # package.module:function, a function without arguments that returns an Environment

    def build(self) -> Environment:
        factory = resolve(self.factory, "environment factory")
        if not callable(factory):
            raise SharedqError(f"environment factory '{self.factory}' is not a function")
        environment = factory()
        if not isinstance(environment, Environment):
            raise SharedqError(
                f"environment factory '{self.factory}' returned {type(environment).__name__}, not an Environment"
            )
        check(environment)
        return environment
