"""The two constraints that a target and a learned value are to meet (Asadi et al., 2024).

    lookahead:  Q(s, a)  =  r + discount * backup( Q'(s', .) )        replicate:  Q'(s, .)  =  Q(s, .)

Q' is what the source bootstraps on. A copy meets the second constraint at the moment of the copy alone, and a target
network that is fitted to the values meets it as well as it is fitted. Without a target network Q' is Q, and the second
residual is zero.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharedq.algorithms.algorithm import Algorithm
from sharedq.analysis.measure import STATES, Measure, check_serves, network_of, source_params


@dataclass(frozen=True)
class Residuals:
    """The mean squares of what the two constraints of target and value lack, on 2,048 transitions."""

    def build(self, algorithm: Algorithm, target: Any) -> Measure:
        check_serves("residuals", algorithm, "loss", "source")
        reading, loss, source = network_of("residuals", algorithm).reading, algorithm.loss, algorithm.source
        assert loss is not None and source is not None

        def at_log(agent, batch, key):
            _, info = loss(agent.params, agent, batch, key)
            found = source.values(source_params(algorithm, agent.params), agent.source, info.inputs)
            pairs = zip(jax.tree.leaves(found.bootstrap), jax.tree.leaves(found.predicted), strict=True)
            apart = [jnp.square(reading.value(one) - reading.value(other))[:, :STATES].mean() for one, other in pairs]
            return {"lookahead": jnp.square(info.errors)[:, :STATES].mean(), "replicate": jnp.stack(apart).mean()}

        def summarise(arrays: dict[str, np.ndarray]) -> dict[str, float]:
            return {f"{name}_residual": float(value) for name, value in arrays.items()}

        return Measure(("lookahead_residual", "replicate_residual"), at_log=at_log, summarise=summarise)
