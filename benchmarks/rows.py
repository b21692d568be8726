"""What a benchmark of training times: one experiment, a stretch of steps at a time, so that several can take turns."""

import time


class Row:
    """One experiment, warmed up, whose chunks can be timed one by one."""

    def __init__(self, experiment, label: str):
        self.label, self.seeds = label, experiment.seeds
        built = experiment.build()
        cost, training = built.cost(compiled=False), experiment.training
        updates = training.updates / training.cycle  # for one environment step
        self.flops = cost.flops_per_update * updates + cost.flops_per_action  # of one environment step
        self.program = built.program()
        began = time.perf_counter()
        self.held = self.program.prepare()  # bytes, with the temporaries of its largest call
        self.compile_seconds = time.perf_counter() - began
        self.run, self.step, self.rates = self.program.begin(), 0, []

    def advance(self, timed: bool) -> None:
        stop = next(s for s in self.program.stops if s > self.step)
        began = time.perf_counter()
        self.run, _ = self.program.advance(self.run, self.step, stop)
        if timed:
            self.rates.append((stop - self.step) * self.seeds / (time.perf_counter() - began))
        self.step = stop
