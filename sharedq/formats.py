"""The format numbers of the files of runs and comparisons, and names in them. Another format is refused."""

RUN = 1  # of experiment.json
PLAN = 1  # of a comparison's plan
SUMMARY = 1  # of a report's summary.json
SEARCH = 1  # of a search's search.json
PLAN_FILE = "compare.json"
SEARCH_FILE = "search.json"
MEASURES = "measures/"  # what the names of measures begin with in metrics.csv
TARGET = "target/"  # what the names of a source's metrics begin with there
SPARSITY = TARGET + "sparsity"  # the share of pruned weights
SAMPLER = "sampler/"  # what the names of a sampler's metrics begin with there and in histograms.csv
ACTORS = "actors/"  # what the names of what is told of remote actors begin with there
