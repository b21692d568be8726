"""Playing whole episodes with a trained agent: their returns, pictures of them, and films."""

MAX_STEPS = 10_000  # ours: the most steps of an episode that is played or filmed, if no other number is asked for
