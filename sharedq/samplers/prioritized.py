"""Prioritised experience replay (PER, Schaul et al., 2016): transitions with large TD errors are drawn more often.

    P  =  (|TD error| + td_offset)^alpha / sum

It is the proportional variant of the paper. `priorities.py` has the rule and says what is kept.
"""

from dataclasses import dataclass

from sharedq.samplers import priorities
from sharedq.samplers.sampler import Sampler, SamplerSpec


@dataclass(frozen=True)
class Prioritized(priorities.Prioritising):
    """Transitions with large TD errors are drawn more often (PER)."""

    alpha: float = 0.6  # how much the TD error counts: 0 draws uniformly, 1 in proportion to it

    def build(self, spec: SamplerSpec) -> Sampler:
        return self.by(spec, self.alpha)
