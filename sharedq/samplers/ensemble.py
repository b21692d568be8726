"""PER with less weight on transitions about whose TD error the heads, networks or critics of the agent disagree.

    priority     =  (|TD error| + td_offset)^alpha * reliability^omega
    reliability  =  1 - d / (d + usual d),     d = deviation among the TD errors of the estimates

Shared heads and iterated networks have several estimates, and so has SAC with two critics. They cost nothing more.
The exponents are ours: PER's alpha, and omega as it is at the end of the annealed rule.
"""

from dataclasses import dataclass
from typing import ClassVar

from sharedq.samplers import priorities
from sharedq.samplers.reliability import of_estimates
from sharedq.samplers.sampler import Sampler, SamplerSpec


@dataclass(frozen=True)
class Ensemble(priorities.Prioritising):
    """PER with less weight on transitions about which the agent's heads, networks or critics disagree."""

    needs_estimates: ClassVar = True

    alpha: float = 0.6  # how much the TD error counts
    omega: float = 0.5  # how much reliability counts; 0 is PER
    refresh_period: int = 100  # updates after which all reliabilities and priorities are computed anew

    def build(self, spec: SamplerSpec) -> Sampler:
        return self.by(spec, self.alpha, self.omega, of_estimates(spec), refresh_period=self.refresh_period)
