"""The formats of what runs and comparisons leave on disk, by number: a file of another format is not guessed at."""

RUN = 1  # of experiment.json
PLAN = 1  # of a comparison's plan
SUMMARY = 1  # of a report's summary.json
PLAN_FILE = "compare.json"
