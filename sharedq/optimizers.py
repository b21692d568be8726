"""How a gradient moves the parameters."""

import optax


def adam(learning_rate: float, epsilon: float, max_gradient_norm: float | None) -> optax.GradientTransformation:
    """Adam, after clipping the gradient's global norm where a bound is given."""
    step = optax.adam(learning_rate, eps=epsilon)
    return step if max_gradient_norm is None else optax.chain(optax.clip_by_global_norm(max_gradient_norm), step)
