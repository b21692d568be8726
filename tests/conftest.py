"""What every test shares: JAX on two CPU devices, so that seeds are spread as they are on a machine with two cores."""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
FIRST = "JAX_COMPILATION_CACHE_DIR" not in os.environ  # of the processes of this run of the tests
if FIRST:  # what one process compiled, the others take from here: runs that are stopped and resumed, and workers
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sharedq-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

from sharedq.training.seeds import use_all_cores  # noqa: E402

use_all_cores()
jax.config.update("jax_num_cpu_devices", 2)  # raises if something used JAX before: then the line above had no effect

# Compiling makes the first example slow, and a failure must come again on the next run.
hypothesis.settings.register_profile("sharedq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sharedq")


@pytest.fixture(scope="module")
def hasty():
    """Compiles with few optimisations, for tests of commands whose programs are small: compiling is most of their time.

    Tests that compare numbers to the bit, or measure programs, are compiled as for users. So nothing that was compiled
    here is left for them.
    """
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture
def undrawn(monkeypatch):
    """Puts an empty figure in place of those of a report, which take most of its time."""
    from sharedq.reports.figures import Figure

    def draw(summary):
        return {name: [Figure("areas", "caption", b"", b"")] for name in ("", *(task.name for task in summary.tasks))}

    monkeypatch.setattr("sharedq.reports.page.draw", draw)


def pytest_unconfigure():
    if FIRST:
        shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
