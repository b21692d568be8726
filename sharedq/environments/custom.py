"""A user's own JAX environment, named by an import string and checked against the contract before it is used."""

from dataclasses import dataclass

from sharedq.environments.contract import Environment, check
from sharedq.errors import EnvironmentFailed, SharedqError, device_errors
from sharedq.imports import own_errors, references, resolve


@dataclass(frozen=True)
class Custom:
    """Your own environment in JAX, given by the import string of its factory."""

    factory: str = ""  # package.module:function; the function takes no arguments and returns an Environment

    def imports(self) -> list[str]:
        """The import strings that building runs."""
        return references(self.factory)

    def build(self) -> Environment:
        factory = resolve(self.factory, "environment factory")
        if not callable(factory):
            raise SharedqError(f"environment factory '{self.factory}' is not a function")
        module = getattr(factory, "__module__", "")
        with own_errors(f"environment factory '{self.factory}'", module, EnvironmentFailed, factory):
            environment = factory()
        if not isinstance(environment, Environment):
            raise SharedqError(
                f"environment factory '{self.factory}' returned {type(environment).__name__}, not an Environment"
            )
        with device_errors():
            check(environment)
        return environment
