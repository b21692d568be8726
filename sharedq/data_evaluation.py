"""What can be said of an agent from data alone, without an environment to play in."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from sharedq import random_keys
from sharedq.agent import Agent
from sharedq.analysis.action_gap import action_gap
from sharedq.analysis.agreement import agreement
from sharedq.analysis.fitted_q import UPDATES, fitted_q
from sharedq.analysis.measure import STATES
from sharedq.datasets import DataSet
from sharedq.datasets.feed import begins_of
from sharedq.settings import check_count, convert
from sharedq.training.learning import step_like
from sharedq.validation import path as as_path


class DataEvaluation(NamedTuple):
    agreement: float  # how often the greedy action is the one that was taken; see `analysis/agreement.py`
    td_error: float  # the mean absolute error of the agent's own loss; nan if it has none
    q_value: float  # the mean value of the actions that were taken; nan if the agent has no values
    action_gap: float  # the best action's value minus that of the second best; nan for continuous actions
    fitted_q: float  # the discounted return of the greedy policy, by fitted-Q evaluation
    behaviour: float  # the mean discounted return of the episodes of the data


def evaluate_on(agent: Agent, data: str | Path, updates: int = UPDATES) -> DataEvaluation:
    """Evaluates an agent on a data set. Fitted-Q evaluation makes so many `updates` of a network of its own.

    Rewards are clipped as the agent was trained with them, and changed as they were if it was trained from data.
    """
    updates = convert(updates, int, "updates")
    check_count("updates", updates)
    built, state = agent.built, agent.state
    algorithm, spec = built.algorithm, built.spec
    learned_from = built.experiment.replay
    settings = learned_from if isinstance(learned_from, DataSet) else DataSet()
    settings = replace(settings, path=str(as_path(data, "data")), content="", fraction=1.0)
    step, gamma, bound = step_like(spec), built.experiment.algorithm.gamma, built.experiment.training.reward_bound
    feed = settings.build(step, gamma, 1)
    feed.open(spec)
    steps = replace(settings, n_step=1).build(step, gamma, 1)  # a longer return would be that of who acted in the data

    @jax.jit
    def looked_at(state, raw):
        batch = feed.decode(jax.tree.map(lambda x: x[0, 0], raw), bound)
        action, _ = algorithm.decide(state, batch.transition.obs)
        values = algorithm.values(state, None, batch.transition.obs)
        found = {"agreement": agreement(action, batch.transition.action)}
        if values.ndim == 2 and values.shape[1] > 1:
            found["action_gap"] = action_gap(values)
        if algorithm.loss is not None and algorithm.source is not None:
            _, info = algorithm.loss(state.params, state, batch, random_keys.root(agent.seed))
            found |= {"td_error": info.errors, "q_value": info.predictions}
        return {name: x.mean() for name, x in found.items()}

    batches = -(-STATES // feed.batch_size)
    rows = [looked_at(state, feed.batches([agent.seed], 2**40 + place, 1)) for place in range(batches)]
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    decide = partial(_action, algorithm, state)
    network, begins = built.experiment.network, begins_of(feed.store)
    value = fitted_q(decide, spec, network, steps, begins, updates, agent.seed, bound)
    return DataEvaluation(
        agreement=means["agreement"],
        td_error=means.get("td_error", np.nan),
        q_value=means.get("q_value", np.nan),
        action_gap=means.get("action_gap", np.nan),
        fitted_q=value,
        behaviour=float(feed.discounted_returns(bound).mean()),
    )


def _action(algorithm, state, obs):
    return algorithm.decide(state, obs)[0]
