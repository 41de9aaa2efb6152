"""Run a benchmark from beginning to end: prepare the models, measure in alternating order, collect the results.

Called by the command; the server's benchmark has its own `serving.run`.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unichoir.benchmark.audio import BenchmarkAudio
from unichoir.benchmark.ceilings import CeilingsWorker
from unichoir.benchmark.machine import describe_machine
from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Plan, Variant, make_plan
from unichoir.benchmark.prepare import load_calibration, prepared_models
from unichoir.benchmark.processes import Child, child
from unichoir.benchmark.results import ModelFacts, Results, Sample
from unichoir.benchmark.worker import Loaded, Worker

MIN_REPEATS, MAX_REPEATS = 3, 15
CELL_SECONDS = 4.0
"""Time for the repetitions of one cell of a variant in a session; `MIN_REPEATS` slow ones may take longer."""

Progress = Callable[[str, int, int], None]
"""Called with the current step, the number of finished steps, and the number of steps known so far."""


def run_benchmark(
    candidates: Sequence[Candidate],
    options: BenchmarkOptions,
    audio: BenchmarkAudio,
    models: Path | None,
    progress: Progress,
) -> Results:
    """Measure configurations with random weights.

    models: folder that keeps the exported models for later runs; None: they are deleted.
    Raises ConfigError, before anything is measured, for an impossible plan, and UnichoirError if a process fails.
    """
    begin = time.perf_counter()
    plan = make_plan(candidates, options)
    steps = _Steps(progress, plan, len(candidates))
    steps.begin("measuring the machine")
    with child(CeilingsWorker(threads=options.threads), "measuring the machine") as process:
        ceilings = process.call("run")
    by_name = {candidate.name: candidate for candidate in candidates}
    with prepared_models(candidates, list(plan.cells), audio.samples, options, models, steps.begin) as folders:
        workers = {
            variant: Worker(variant, by_name[variant.config], folders[variant.config], audio.samples, options)
            for variant in plan.cells
        }
        samples, facts = _measure(plan, workers, options, steps)
        shares = {name: load_calibration(folder).shares for name, folder in folders.items()}
    return Results(
        machine=describe_machine(options.threads),
        audio=audio.description,
        candidates=by_name,
        options=options,
        plan=plan,
        facts=facts,
        samples=samples,
        shares={name: layers for name, layers in shares.items() if layers},
        ceilings=ceilings,
        seconds=time.perf_counter() - begin,
    )


class _Steps:
    """Counts steps for `progress`. The number of repetitions is known only after each cell has been measured once."""

    def __init__(self, progress: Progress, plan: Plan, configs: int) -> None:
        self._progress = progress
        self._done = -1
        self._total = 1 + configs + sum(len(session.work) for session in plan.sessions()) * (1 + MIN_REPEATS)

    def begin(self, what: str, more: int = 0) -> None:
        """Finish the current step and begin the next; `more` steps are added to the total."""
        self._done += 1
        self._total += more
        self._progress(what, self._done, self._total)


def _measure(
    plan: Plan, workers: Mapping[Variant, Worker], options: BenchmarkOptions, steps: _Steps
) -> tuple[dict[tuple[Variant, Cell], list[Sample]], dict[Variant, ModelFacts]]:
    """Run all sessions; each worker stays in memory from its first session to its last."""
    samples: dict[tuple[Variant, Cell], list[Sample]] = defaultdict(list)
    facts: dict[Variant, ModelFacts] = {}
    loaded: dict[Variant, Loaded] = {}
    with contextlib.ExitStack() as stack:
        children: dict[Variant, Child] = {}
        for session in plan.sessions():
            for variant in dict.fromkeys(variant for variant, _ in session.work):
                if variant not in children:
                    children[variant] = stack.enter_context(child(workers[variant], variant.name))
                    loaded[variant] = children[variant].call("load")
            _measure_session(children, session.work, options, samples, steps)
            for variant in session.ends:
                facts[variant] = ModelFacts(loaded=loaded[variant], memory=children[variant].call("memory"))
                children.pop(variant).close()
    return dict(samples), {variant: facts[variant] for variant in plan.cells}


def _measure_session(
    children: Mapping[Variant, Child],
    work: Sequence[tuple[Variant, Cell]],
    options: BenchmarkOptions,
    samples: dict[tuple[Variant, Cell], list[Sample]],
    steps: _Steps,
) -> None:
    """Measure everything once per round, in alternating order, because the machine's speed drifts over minutes.

    The first round is a warm-up that also determines how many repetitions each measurement has time for.
    """
    repeats = {}
    for variant, cell in work:
        steps.begin(f"{variant.name}, {cell.name}")
        start = time.perf_counter()
        children[variant].call("measure", cell)
        affordable = int(CELL_SECONDS / (time.perf_counter() - start))
        repeats[variant, cell] = options.repeats or min(max(affordable, MIN_REPEATS), MAX_REPEATS)
    more = sum(repeats.values()) - MIN_REPEATS * len(work)
    first = 1 + max((each.round for taken in samples.values() for each in taken), default=0)
    for number in range(max(repeats.values())):
        for variant, cell in work:
            if number < repeats[variant, cell]:
                steps.begin(f"{variant.name}, {cell.name}", more)
                more = 0
                parts = children[variant].call("measure", cell)
                samples[variant, cell].append(Sample(round=first + number, parts=parts))
