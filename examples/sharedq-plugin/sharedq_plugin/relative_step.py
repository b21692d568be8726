"""A measure of how far a gradient step moves the weights, compared with how large they are."""

from dataclasses import dataclass

import optax

from sharedq.analysis import Measure


@dataclass(frozen=True)
class RelativeStep:
    """The norm of a gradient step, divided by the norm of all weights."""

    def build(self, algorithm, target):
        def at_update(kept, info):
            step = optax.tree.sub(info.after.params, info.before.params)
            return {"relative_step": optax.tree.norm(step) / optax.tree.norm(info.before.params)}

        return Measure(("relative_step",), at_update)
