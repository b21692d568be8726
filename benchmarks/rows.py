"""What a benchmark of training times: one experiment, a stretch of steps at a time, so that several can take turns."""

import time
from functools import cached_property


class Row:
    """One experiment, warmed up, whose stretches can be timed one by one."""

    def __init__(self, experiment, label: str):
        self.label, self.seeds = label, experiment.seeds
        self._built = experiment.build()
        self.program = self._built.program()
        began = time.perf_counter()
        self.held = self.program.prepare()  # bytes, with the temporaries of its largest call
        self.compile_seconds = time.perf_counter() - began
        self.run, self.step, self.rates, self.of_core = self.program.begin(), 0, [], []

    @cached_property
    def flops(self) -> float:
        """Of one environment step, with its share of an update, where updates are made from a replay."""
        cost, training = self._built.cost(compiled=False), self._built.experiment.training
        return cost.flops_per_update * training.updates_per_cycle / training.cycle + cost.flops_per_action

    def advance(self, timed: bool) -> None:
        """To the next row of the log; `rates` are by the clock, `of_core` by the processor seconds that were used."""
        stop = next(s for s in self.program.log_steps if s > self.step)
        began, used = time.perf_counter(), time.process_time()
        self.run, _ = self.program.advance(self.run, self.step, stop)
        if timed:
            steps = (stop - self.step) * self.seeds
            self.rates.append(steps / (time.perf_counter() - began))
            self.of_core.append(steps / (time.process_time() - used))
        self.step = stop
