"""Annealed priorities: the weight of the TD error falls during the run, and that of reliability grows.

    priority  =  (|TD error| + td_offset)^alpha * (1 - rho)^omega,     alpha 0.7 -> 0.1,  omega 0 -> 0.5

No paper has this rule. A description of it contradicts itself: it calls rho a normalised reliability and says that
reliable transitions are drawn more often later, but the formula draws them less often then. If rho is what the
description tells how to measure, a normalised moving deviation of TD errors, then formula and words agree, because a
large deviation is unreliable. That is the default. The other readings are options:

* `reliability`: the deviation over visits, the spread of several estimates (its words elsewhere: "variance across
  bootstrap samples"), or the share of the episode as in ReaPER;
* `favours unreliable`: the formula with rho as a reliability, to the letter;
* `beta_start 0` and `beta_end 0`: no weights in the loss, which the description does not mention. It calls the exponent
  of reliability beta, which is the name of the weights' exponent in PER; here it is omega.
"""

from dataclasses import dataclass
from typing import Literal

from sharedq.samplers import priorities
from sharedq.samplers.reliability import Truncation, of_deviation, of_episodes, of_estimates
from sharedq.samplers.sampler import Sampler, SamplerSpec


@dataclass(frozen=True)
class Annealed(priorities.Prioritising):
    """Priorities that depend on TD errors at first, and later on how reliable these are."""

    alpha_start: float = 0.7  # how much the TD error counts at step 0
    alpha_end: float = 0.1  # the same after anneal_steps
    omega_start: float = 0.0  # how much reliability counts at step 0
    omega_end: float = 0.5  # the same after anneal_steps
    reliability: Literal["deviation", "estimates", "episodes"] = "deviation"  # by what reliability is estimated
    favours: Literal["reliable", "unreliable"] = "reliable"  # which transitions are drawn more often
    truncation: Truncation = "end"  # for reliability by episodes: as for reaper
    refresh_period: int = 100  # updates after which all reliabilities and priorities are computed anew

    @property
    def needs_estimates(self) -> bool:
        return self.reliability == "estimates"

    def build(self, spec: SamplerSpec) -> Sampler:
        reliability = {
            "deviation": lambda: of_deviation(spec),
            "estimates": lambda: of_estimates(spec),
            "episodes": lambda: of_episodes(spec, self.truncation),
        }[self.reliability]()
        return self.by(
            spec,
            self.annealed(spec, "alpha"),
            self.annealed(spec, "omega"),
            reliability,
            favours_reliable=self.favours == "reliable",
            refresh_period=self.refresh_period,
        )
