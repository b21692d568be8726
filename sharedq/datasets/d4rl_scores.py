"""The returns of a random agent and of an expert in the environments of D4RL, which its normalised scores refer to.

The numbers are those of D4RL's own code (d4rl/infos.py); all versions of a data set share them.
"""

SCORES = {  # by how the names begin
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.833),
    "hammer": (-274.856578, 12794.135),
    "door": (-56.512833, 2880.569),
    "relocate": (-6.425911, 4233.878),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
}


def reference_scores(environment: str) -> tuple[float, float] | None:
    """The pair for an environment such as hopper-medium-v2. None if it is not known."""
    name = environment.lower()
    if "-dense" in name:  # the rewards of these are others
        return None
    return next((scores for begin, scores in SCORES.items() if f"{name}-".startswith(f"{begin}-")), None)
