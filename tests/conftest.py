"""What every test shares: JAX on two CPU devices, so that seeds are spread as they are on a machine with two cores."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import hypothesis
import jax

from sharedq.training.seeds import use_all_cores

use_all_cores()
jax.config.update("jax_num_cpu_devices", 2)  # raises if something used JAX before: then the line above had no effect

# Compiling makes the first example slow, and a failure must come again on the next run.
hypothesis.settings.register_profile("sharedq", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sharedq")
