"""What can be said of an agent from data alone, without an environment to play in."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharedq import random_keys
from sharedq.agent import Agent
from sharedq.analysis.action_gap import action_gap
from sharedq.analysis.agreement import agreement
from sharedq.analysis.fitted_q import fitted_q
from sharedq.analysis.measure import STATES
from sharedq.datasets import DataSet
from sharedq.datasets.data_set import DataFeed, UnknownEnds
from sharedq.datasets.episode import End
from sharedq.datasets.feed import begins_of
from sharedq.environments.spec import Tokens
from sharedq.settings import FITTED_Q_UPDATES, check_count, convert, require
from sharedq.training.offline import PROBE
from sharedq.validation import path as as_path

SETTLED = 0.05  # ours: the share of its value that fitted Q may still move in the last tenth of its updates


class DataEvaluation(NamedTuple):
    agreement: float  # how often the greedy action is the one that was taken; see `analysis/agreement.py`
    td_error: float  # the mean absolute error of the agent's own loss; nan if it has none
    q_value: float  # the mean value of the actions that were taken; nan if the agent has no values
    action_gap: float  # the best action's value minus the second best; nan without values, or for continuous actions
    fitted_q: float  # the discounted return of the greedy policy, by fitted-Q evaluation; it knows no time limit
    behaviour: float  # the mean discounted return of the episodes of the data, to where each one ends
    fitted_q_moved: float  # the share of `fitted_q` by which it still moved in the last tenth of its updates

    @property
    def settled(self) -> bool:
        """Whether fitted-Q evaluation had enough updates."""
        return self.fitted_q_moved <= SETTLED


class OnData:
    """A data set, opened and checked once, on which the agents of one run are evaluated."""

    def __init__(
        self,
        like: Agent,
        data: str | Path,
        updates: int = FITTED_Q_UPDATES,
        unknown_ends: UnknownEnds | None = None,
    ):
        """`like` is an agent of the run. Fitted-Q evaluation makes so many `updates` of a network of its own.

        Rewards are clipped as the run was trained with them, and changed as they were if it was trained from data.
        """
        self._updates = convert(updates, int, "updates")
        check_count("updates", self._updates)
        built, experiment = like.built, like.built.experiment
        require(
            not isinstance(built.spec.actions, Tokens),
            f"the actions in '{built.spec.name}' are texts, and an agent that writes texts cannot be evaluated on "
            "data: leave out --data to let it play",
        )
        self._built, gamma, bound = built, experiment.algorithm.gamma, experiment.training.reward_bound
        replay = experiment.replay if hasattr(experiment.replay, "for_other_data") else DataSet()
        settings, rewards, remark = replay.for_other_data(str(as_path(data, "data")), like.data, unknown_ends)
        self._feed = DataFeed(settings, gamma, rewards)
        self._feed.open(built.spec)
        settings.check_meanings(experiment.action_meanings)
        # In a longer return, who acted in the data would have chosen most of the actions.
        self._steps = DataFeed(replace(settings, n_step=1), gamma, rewards)
        self._bound = bound
        self._evaluate = jax.jit(self._batch)
        self.remarks = [] if remark is None else [remark]
        self._behaviour = float(self._feed.discounted_returns(bound).mean())
        ends = self._feed.ends
        if cut := int((ends == End.TRUNCATED).sum()):
            self.remarks.append(
                f"{cut:,} of {len(ends):,} episodes were truncated: fitted Q counts what would have followed, and the "
                "discounted return of the data does not"
            )

    def evaluate(self, agent: Agent) -> DataEvaluation:
        """What the data say about an agent of the run."""
        batches = -(-STATES // self._feed.batch_size)
        key = random_keys.root(agent.seed)
        rows = [
            self._evaluate(agent.state, key, self._feed.batches([agent.seed], PROBE + place, 1))
            for place in range(batches)
        ]
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        decide, begins = partial(_action, self._built.algorithm, agent.state), partial(begins_of, self._feed.store)
        spec, network = self._built.spec, self._built.experiment.network
        fitted = fitted_q(decide, spec, network, self._steps, begins, self._updates, agent.seed, self._bound)
        return DataEvaluation(
            agreement=means["agreement"],
            td_error=means.get("td_error", np.nan),
            q_value=means.get("q_value", np.nan),
            action_gap=means.get("action_gap", np.nan),
            fitted_q=fitted.value,
            behaviour=self._behaviour,
            fitted_q_moved=abs(fitted.value - fitted.earlier) / (max(map(abs, fitted)) or 1),
        )

    def _batch(self, state: Any, key: jax.Array, raw: Any) -> dict[str, jax.Array]:
        """The means over one batch."""
        algorithm = self._built.algorithm
        batch = self._feed.decode(jax.tree.map(lambda x: x[0, 0], raw), self._bound)
        action, _ = algorithm.decide(state, batch.transition.obs)
        values = algorithm.values(state, None, batch.transition.obs)
        found = {"agreement": agreement(action, batch.transition.action)}
        if self._built.experiment.uses_target and values.ndim == 2 and values.shape[1] > 1:
            found["action_gap"] = action_gap(values)
        if algorithm.loss is not None and algorithm.source is not None:
            _, info = algorithm.loss(state.params, state, batch, key)
            found |= {"td_error": info.errors, "q_value": info.predictions}
        return {name: jnp.mean(x) for name, x in found.items()}


def _action(algorithm: Any, state: Any, obs: Any) -> jax.Array:
    return algorithm.decide(state, obs)[0]
