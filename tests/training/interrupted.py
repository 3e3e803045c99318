"""Runs that somebody interrupts, and what must then be equal."""

import signal

from mest_compiler.training.progress import QuietReporter

TIMES = {"ms_per_iteration", "seconds", "mutation_ms", "memory_mb"}


class CtrlC(QuietReporter):
    """Presses Ctrl-C after so many steps, counted over the run, or at an epoch's end."""

    def __init__(self, after_steps=None, after_epoch=None):
        self.left, self.after_epoch, self.notes = after_steps, after_epoch, []

    def step_finished(self, done, loss):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(signal.SIGINT)

    def epoch_finished(self, record, epochs):
        if record.epoch == self.after_epoch:
            signal.raise_signal(signal.SIGINT)

    def note(self, sentence):
        self.notes.append(sentence)


def without_times(records):
    """Records, or lines of a log, without what depends on the machine."""
    records = [record if isinstance(record, dict) else record.as_mapping() for record in records]
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def parts_of(engine):
    """All arrays of an engine: parameters and buffers, each slot of the optimiser, masks, ids of the kept units."""
    return [engine.state(), *engine.slots().values(), engine.masks(), engine.kept_units()]


def same_state(a, b):
    """Fails unless two engines hold the same bits."""
    for ours, theirs in zip(parts_of(a), parts_of(b), strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].tobytes() == theirs[name].tobytes(), name
