"""What is in a data set: returns, lengths, actions and rewards, counted in one pass, and what they hint at."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from sharedq.datasets.episode import End
from sharedq.datasets.manifest import Description
from sharedq.datasets.reader import Reader
from sharedq.datasets.rules import check_episode
from sharedq.datasets.store import Store
from sharedq.environments.spec import Discrete, Tokens
from sharedq.errors import SharedqError
from sharedq.output import Counted, uncounted

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # in percent
FEW = 12  # different rewards that are counted one by one
EDGES = np.array([-1e3, -1e2, -10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10, 1e2, 1e3])  # of the counts of many rewards
RARE_SHARE = 0.01  # the share of the steps below which rewards, or a group, are rare
STILL_STD = 0.01  # the standard deviation below which a dimension of the actions hardly varies
MOSTLY = 0.9  # the share of the steps above which one action crowds out the others


class ActionsAndRewards(NamedTuple):
    """An episode without its observations."""

    action: np.ndarray
    reward: np.ndarray
    end: int
    group: int


def parts_of_store(store: Store, progress: Counted = uncounted) -> Iterator[ActionsAndRewards]:
    """The episodes of a store. Its observations are not read."""
    for first, length, end, group in store.episodes.tolist():
        yield ActionsAndRewards(
            store.actions[first : first + length], store.rewards[first : first + length], end, group
        )
        progress(first + length, store.manifest.steps)


def parts_of_source(reader: Reader, progress: Counted = uncounted) -> Iterator[ActionsAndRewards]:
    """The episodes of other people's data. Raises at the first one that breaks a rule."""
    done, total, description = 0, reader.count(), reader.describe()
    for episode, where, _ in reader.episodes():
        check_episode(episode, description, where)
        done += len(episode.reward)
        yield ActionsAndRewards(episode.action, episode.reward, int(episode.end), episode.group)
        progress(done, total)


class Contents:
    """What was counted. Memory grows with the number of episodes, not with that of steps."""

    def __init__(self, description: Description, parts: Iterable[ActionsAndRewards]):
        self.description = description
        self._actions = _actions_of(description)
        self._values: Counter[float] | None = Counter()  # of the rewards, as long as they are few
        self._bins = np.zeros(len(EDGES) + 1, np.int64)
        self._rewarded = 0
        rows = [self._count(part) for part in parts]
        columns = zip(*rows, strict=True) if rows else ([],) * 4
        self.returns, self.lengths, self.ends, self.groups = (np.array(column) for column in columns)
        self.episodes, self.steps = len(self.lengths), int(self.lengths.sum())

    def _count(self, part: ActionsAndRewards) -> tuple[float, int, int, int]:
        reward = np.asarray(part.reward, np.float64)
        if not (np.isfinite(reward).all() and self._actions.fit(part.action)):
            raise SharedqError("the data set was changed or damaged: 'sharedq data validate' names the place")
        self._actions.add(part.action)
        self._rewarded += int(np.count_nonzero(reward))
        self._bins += np.bincount(np.searchsorted(EDGES, reward), minlength=len(self._bins))
        if self._values is not None:
            values, counts = np.unique(reward, return_counts=True)
            self._values.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            if len(self._values) > FEW:
                self._values = None
        return float(reward.sum()), len(reward), part.end, part.group

    @property
    def ends_by_name(self) -> dict[str, int]:
        return {end.name.lower(): int((self.ends == end).sum()) for end in End}

    @property
    def normalised_return(self) -> float | None:
        """The mean return where a random agent has 0 and an expert, or a human on Atari, has 100.

        None if the scores of these are not known, or if rewards were changed, because they are scores of raw returns.
        """
        low, high = self.description.reference_scores or (0, 0)
        if not (low < high and self.episodes and self.description.rewards == "raw"):
            return None
        return float(100 * (self.returns.mean() - low) / (high - low))

    def to_dict(self) -> dict[str, Any]:
        """Everything, in a form that JSON can hold."""
        found: dict[str, Any] = {"steps": self.steps, "episodes": self.episodes, "ends": self.ends_by_name}
        found |= {"returns": _spread(self.returns), "lengths": _spread(self.lengths)}
        if (score := self.normalised_return) is not None:
            found["normalised_return"] = score
        found |= {"actions": self._actions.to_dict(), "rewards": self._rewards(), "groups": self._groups()}
        return found | {"hints": self.hints()}

    def _rewards(self) -> dict[str, Any]:
        if self._values is not None:
            return {"values": {f"{value:g}": count for value, count in sorted(self._values.items())}}
        return {"bins": dict(zip(_names_of_bins(), self._bins.tolist(), strict=True))}

    def _groups(self) -> list[dict[str, Any]]:
        found = []
        for group in np.unique(self.groups):
            mine = self.groups == group
            steps = int(self.lengths[mine].sum())
            one = {"group": int(group), "episodes": int(mine.sum()), "steps": steps, "share": steps / self.steps}
            found.append(one | {"mean_return": float(self.returns[mine].mean())})
        return found

    def hints(self) -> list[str]:
        """What somebody who wants to learn from the data should look at. None of it is an error."""
        if not self.episodes:
            return ["there is no episode"]
        found = self._actions.hints()
        if not self._rewarded:
            found.append("every reward is 0, so there is nothing to learn")
        elif (share := self._rewarded / self.steps) < RARE_SHARE:
            found.append(f"rewards are sparse: {share:.2%} of the steps have one")
        if self.episodes > 1 and np.ptp(self.returns) == 0:
            found.append("all episodes have the same return, so none of them shows what is better")
        for one in self._groups():
            if one["share"] < RARE_SHARE:
                found.append(f"group {one['group']} makes up only {one['share']:.2%} of the steps")
        return found

    def lines(self) -> list[str]:
        """The same for people, in aligned columns."""
        told = self.to_dict()
        lines = [f"{self.steps:,} steps in {_of(self.episodes, 'episode')}, {ends_in_words(self.ends_by_name)}", ""]
        if not self.episodes:
            return lines
        names = ("mean", "std", *(_name_of_quantile(percent) for percent in QUANTILES))
        table = [["", *names]]
        for what in ("returns", "lengths"):
            table.append([what, *(_number(told[what][name]) for name in names)])
        lines += [*_aligned(table), ""]
        if self.normalised_return is not None:
            low, high = self.description.reference_scores or (0, 0)
            lines += [f"mean normalised return {self.normalised_return:.1f} (0 is {low:g}, 100 is {high:g})", ""]
        lines += [*self._actions.lines(), ""]
        shown = told["rewards"].get("values") or told["rewards"]["bins"]
        lines += _histogram("rewards", {name: count for name, count in shown.items() if count}, self.steps)
        if len(told["groups"]) > 1:
            rows = [["group", "episodes", "steps", "share", "mean return"]]
            for one in told["groups"]:
                counts = (str(one["group"]), f"{one['episodes']:,}", f"{one['steps']:,}", f"{one['share']:.1%}")
                rows.append([*counts, _number(one["mean_return"])])
            lines += ["", *_aligned(rows)]
        return lines + [""] * bool(told["hints"]) + [f"hint: {hint}" for hint in told["hints"]]


def ends_in_words(ends: dict[str, int]) -> str:
    """How the episodes ended, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in ends.items() if count) or "none ended"


class _DiscreteActions:
    """How often each action was taken."""

    def __init__(self, n: int, meanings: tuple[str, ...] | None):
        self._counts = np.zeros(n, np.int64)
        names = meanings if meanings is not None and len(meanings) == n else ()
        self._names = [f"{action} {names[action]}" if names else str(action) for action in range(n)]

    def fit(self, action: np.ndarray) -> bool:
        return bool(((action >= 0) & (action < len(self._counts))).all())

    def add(self, action: np.ndarray) -> None:
        self._counts += np.bincount(action, minlength=len(self._counts))

    def to_dict(self) -> dict[str, Any]:
        return {"counts": dict(zip(self._names, self._counts.tolist(), strict=True))}

    def lines(self) -> list[str]:
        return _histogram("actions", self.to_dict()["counts"], int(self._counts.sum()))

    def hints(self) -> list[str]:
        shares = self._counts / max(self._counts.sum(), 1)
        never = [name for name, count in zip(self._names, self._counts, strict=True) if not count]
        found = []
        if never:
            one = len(never) == 1
            shown = ", ".join(never[:FEW]) + ", ..." * (len(never) > FEW)
            found.append(f"action{'s' * (not one)} {shown} {'was' if one else 'were'} never taken")
        if len(shares) > 1 and shares.max() > MOSTLY:
            found.append(
                f"action {self._names[int(shares.argmax())]} makes up {shares.max():.1%} of the steps: the data tell "
                "little about the others"
            )
        return found


class _TextActions:
    """How often each token was written."""

    def __init__(self, vocabulary: int):
        self._counts = np.zeros(vocabulary, np.int64)

    def fit(self, action: np.ndarray) -> bool:
        return bool(((action >= 0) & (action < len(self._counts))).all())

    def add(self, action: np.ndarray) -> None:
        self._counts += np.bincount(action.ravel(), minlength=len(self._counts))

    def to_dict(self) -> dict[str, Any]:
        return {"tokens": {str(token): count for token, count in enumerate(self._counts.tolist())}}

    def lines(self) -> list[str]:
        written = {name: count for name, count in self.to_dict()["tokens"].items() if count}
        return _histogram("token", written, int(self._counts.sum()), "written")

    def hints(self) -> list[str]:
        return []


class _ContinuousActions:
    """Mean, spread and range of each dimension."""

    def __init__(self, dimensions: int):
        self._count, self._sum, self._squares = 0, np.zeros(dimensions), np.zeros(dimensions)
        self._least, self._most = np.full(dimensions, np.inf), np.full(dimensions, -np.inf)

    def fit(self, action: np.ndarray) -> bool:
        return bool(np.isfinite(action).all())

    def add(self, action: np.ndarray) -> None:
        action = np.asarray(action, np.float64).reshape(len(action), -1)
        self._count += len(action)
        self._sum, self._squares = self._sum + action.sum(axis=0), self._squares + (action**2).sum(axis=0)
        self._least = np.minimum(self._least, action.min(axis=0))
        self._most = np.maximum(self._most, action.max(axis=0))

    def to_dict(self) -> dict[str, Any]:
        count = max(self._count, 1)
        mean = self._sum / count
        std = np.sqrt(np.maximum(self._squares / count - mean**2, 0))
        numbers = {"mean": mean, "std": std, "least": self._least, "most": self._most}
        return {name: values.tolist() if self._count else [] for name, values in numbers.items()}

    def lines(self) -> list[str]:
        told = self.to_dict()
        rows = [["actions", *told]]
        for dimension in range(len(told["mean"])):
            rows.append([f"dimension {dimension}", *(_number(told[name][dimension]) for name in told)])
        return _aligned(rows)

    def hints(self) -> list[str]:
        still = [str(dimension) for dimension, std in enumerate(self.to_dict()["std"]) if std < STILL_STD]
        return [f"the actions hardly vary in dimension {', '.join(still)}"] if still else []


def _actions_of(description: Description) -> _DiscreteActions | _TextActions | _ContinuousActions:
    actions = description.spec.actions
    if isinstance(actions, Discrete):
        return _DiscreteActions(actions.n, description.action_meanings)
    if isinstance(actions, Tokens):
        return _TextActions(actions.vocabulary)
    return _ContinuousActions(int(np.prod(actions.one.shape)))


def _name_of_quantile(percent: int) -> str:
    return {0: "least", 50: "median", 100: "most"}.get(percent, f"{percent} %")


def _spread(values: np.ndarray) -> dict[str, float | None]:
    names = [_name_of_quantile(percent) for percent in QUANTILES]
    if not len(values):
        return dict.fromkeys(("mean", "std", *names))
    quantiles = np.percentile(values, QUANTILES)
    return {"mean": float(values.mean()), "std": float(values.std())} | dict(
        zip(names, quantiles.tolist(), strict=True)
    )


def _names_of_bins() -> list[str]:
    return [f"up to {EDGES[0]:g}", *(f"up to {edge:g}" for edge in EDGES[1:]), f"above {EDGES[-1]:g}"]


def _of(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _histogram(what: str, counts: dict[str, int], total: int, counted: str = "steps") -> list[str]:
    rows = [[what, counted, "share"]]
    rows += [[name, f"{count:,}", f"{count / max(total, 1):.1%}"] for name, count in counts.items()]
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    ]
