"""Reliability-adjusted prioritised replay: ReaPER (Pleiss et al., 2025) and ReaPER+, which anneals its exponent.

    priority  =  reliability^omega * (|TD error| + td_offset)^alpha
    reliability of a step  =  1 - (sum of the later steps' |TD error|) / (sum of the whole episode's |TD error|)

A target is an estimate too, and it can be trusted where little error lies after it in the episode. With omega 0 this is
PER. ReaPER+ lets omega grow, since early in the run all TD errors are those of a network that knows nothing.

The authors' code computes the shares of an episode anew at its end, and whenever one of its steps is drawn. Here those
of all episodes are computed anew every `refresh_period` updates, also of one that goes on and was not drawn from yet.
"""

from dataclasses import dataclass

from sharedq.samplers import priorities
from sharedq.samplers.reliability import Truncation, of_episodes
from sharedq.samplers.sampler import Sampler, SamplerSpec


@dataclass(frozen=True)
class _ByEpisodes(priorities.Prioritising):
    alpha: float = 0.4  # how much the TD error counts
    truncation: Truncation = "end"  # a time limit ends an episode, or leaves out one more step with the mean TD error
    refresh_period: int = 100  # updates after which all reliabilities and priorities are computed anew

    def by_episodes(self, spec: SamplerSpec, omega: float | priorities.Exponent) -> Sampler:
        reliability = of_episodes(spec, self.truncation)
        return self.by(spec, self.alpha, omega, reliability, refresh_period=self.refresh_period)


@dataclass(frozen=True)
class Reaper(_ByEpisodes):
    """PER with less weight on steps whose episode has large TD errors after them (ReaPER)."""

    omega: float = 0.2  # how much reliability counts; 0 is PER

    def build(self, spec: SamplerSpec) -> Sampler:
        return self.by_episodes(spec, self.omega)


@dataclass(frozen=True)
class ReaperPlus(_ByEpisodes):
    """ReaPER whose weight on reliability grows during the run (ReaPER+)."""

    omega_start: float = 0.1  # how much reliability counts at step 0
    omega_end: float = 0.7  # the same after anneal_steps

    def build(self, spec: SamplerSpec) -> Sampler:
        return self.by_episodes(spec, self.annealed(spec, "omega"))
