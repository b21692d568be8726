"""Samplers: which stored transitions are learned from. To add one, write a file with its settings, and a line here."""

from sharedq.samplers.annealed import Annealed
from sharedq.samplers.ensemble import Ensemble
from sharedq.samplers.prioritized import Prioritized
from sharedq.samplers.reaper import Reaper, ReaperPlus
from sharedq.samplers.sampler import Index, Sampler, SamplerSpec, check
from sharedq.samplers.surprise import Surprise
from sharedq.samplers.uniform import Uniform

SAMPLERS = {
    "uniform": Uniform,
    "prioritized": Prioritized,
    "reaper": Reaper,
    "reaper_plus": ReaperPlus,
    "annealed": Annealed,
    "ensemble": Ensemble,
    "surprise": Surprise,
}

__all__ = [
    "SAMPLERS",
    "Annealed",
    "Ensemble",
    "Index",
    "Prioritized",
    "Reaper",
    "ReaperPlus",
    "Sampler",
    "SamplerSpec",
    "Surprise",
    "Uniform",
    "check",
]
