"""Writes a store as a data set of Minari, with Minari's own API, so that what was collected can be published."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sharedq.datasets.episode import End, Episode
from sharedq.datasets.manifest import Description
from sharedq.datasets.readers.minari import home
from sharedq.datasets.store import Store
from sharedq.datasets.writing import alone
from sharedq.environments.spec import Actions, Discrete, Tokens
from sharedq.errors import SharedqError, missing_extra
from sharedq.settings import require

FORMS = ("hdf5", "arrow", "parquet")
CARTPOLE = {"kind": "cartpole", "time_limit": 500, "tell_time": False}  # the settings of ours that are CartPole-v1


def export(
    store: Store, dataset_id: str, author: str | None = None, email: str | None = None, form: str = "hdf5"
) -> None:
    """Writes a store as the data set `dataset_id`, such as mine/cartpole/mixed-v0, where Minari keeps its data sets.

    Observations of stacks are written as whole stacks, and images without loss. Minari has no place for the groups of
    episodes. `author` and `email` say who publishes it, and `form`, one of `FORMS`, how Minari writes its files.
    """
    require(form in FORMS, f"Minari has no form '{form}': choose from {', '.join(FORMS)}")
    try:
        from minari.dataset.minari_dataset import parse_dataset_id
    except ImportError:
        raise missing_extra("minari", "data", "writing data sets of Minari") from None
    try:
        parse_dataset_id(dataset_id)
    except (ValueError, TypeError):
        raise SharedqError(
            f"'{dataset_id}' is no id of Minari: it is written as name-v0, or namespace/name-v0"
        ) from None
    folder = home() / dataset_id
    with alone(folder):
        if folder.exists():
            raise SharedqError(f"{folder} exists already: choose another id, or remove it with 'minari delete'")
        _write(store, dataset_id, folder, author, email, form)


def _write(store: Store, dataset_id: str, folder: Path, author: str | None, email: str | None, form: str) -> None:
    import minari

    description = store.description
    notes = f"Rewards: {description.rewards}. " + " ".join(f"{note}." for note in description.notes)
    try:
        with warnings.catch_warnings():  # about names of an author or of code that were not given
            warnings.simplefilter("ignore")
            written = minari.create_dataset_from_buffers(
                dataset_id,
                _buffers(store),  # a generator: only one episode is in memory
                env=_environment(description),
                algorithm_name=description.behaviour,
                author=author,
                author_email=email,
                observation_space=_observation_space(description.spec.observation),
                action_space=_action_space(description.spec.actions),
                description=notes.strip(),
                data_format=form,
                jpeg_encoding=False,
            )
            if scores := description.reference_scores:  # given above, Minari would open the environment
                written.storage.update_metadata({"ref_min_score": scores[0], "ref_max_score": scores[1]})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # it was not there before
        raise


def _buffers(store: Store) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    for episode in store:
        steps = len(episode.reward)
        last = np.arange(steps) == steps - 1
        yield EpisodeBuffer(
            observations=_stacked(episode, store.description.stack),
            actions=store.description.spec.actions.in_units(episode.action),
            rewards=episode.reward,
            terminations=last & (episode.end == End.TERMINATED),
            truncations=last & (episode.end == End.TRUNCATED),
        )


def _stacked(episode: Episode, depth: int | None) -> np.ndarray:
    """Observations [T+1, ...]; frames become stacks with time on the last axis, black before the episode."""
    if depth is None:
        return episode.obs
    padded = np.concatenate([np.zeros_like(episode.obs[:1]).repeat(depth - 1, axis=0), episode.obs])
    return np.stack([padded[k : k + len(episode.obs)] for k in range(depth)], axis=-1)


def _environment(description: Description) -> Any:
    """An environment that tells its spec and can do nothing else, because Minari takes the spec from one.

    There is none if Gymnasium could not make the environment of the data again, or only with other settings.
    """
    import gymnasium

    settings, name = description.environment or {}, description.spec.name
    if settings == CARTPOLE:
        name = "gymnasium/CartPole-v1"
    elif any(settings.get(changed) is not None for changed in ("time_limit", "kwargs")):
        return None
    spec = gymnasium.registry.get(name.removeprefix("gymnasium/")) if name.startswith("gymnasium/") else None
    if spec is None or not isinstance(spec.entry_point, str):
        return None
    environment: Any = gymnasium.Env()
    environment.spec = spec
    return environment


def _observation_space(form: Any) -> Any:
    from gymnasium import spaces

    low, high = {np.dtype(np.uint8): (0, 255), np.dtype(np.bool_): (0, 1)}.get(np.dtype(form.dtype), (-np.inf, np.inf))
    return spaces.Box(low, high, form.shape, form.dtype)


def _action_space(actions: Actions) -> Any:
    from gymnasium import spaces

    if isinstance(actions, Tokens):
        raise SharedqError("the actions are texts, which Minari cannot describe: keep the data set in our own form")
    if not isinstance(actions, Discrete):
        return spaces.Box(np.asarray(actions.low), np.asarray(actions.high), dtype=np.asarray(actions.low).dtype.type)
    if actions.sizes:
        return spaces.MultiDiscrete(list(actions.sizes), dtype=actions.dtype, start=list(actions.starts))
    return spaces.Discrete(actions.n, start=actions.first)
