"""What a run leaves on disk: its folder, its log, its checkpoints.

Nothing here knows what is being trained."""

from sharedq.runs import checkpoints as checkpoints
from sharedq.runs.durable import atomic_write as atomic_write
from sharedq.runs.metrics_log import MetricsLog as MetricsLog
from sharedq.runs.run_directory import RunDirectory as RunDirectory
