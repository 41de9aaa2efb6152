"""Run the benchmark of a server from beginning to end: expected texts, server, clients; called by the command."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from unichoir.benchmark.machine import describe_machine
from unichoir.benchmark.processes import Child, child
from unichoir.benchmark.run import Progress
from unichoir.benchmark.serving.client import Target
from unichoir.benchmark.serving.load import Clients, Played
from unichoir.benchmark.serving.probe import Probe
from unichoir.benchmark.serving.recordings import (
    Recording,
    load_recordings,
    short_recordings,
    with_expected_texts,
)
from unichoir.benchmark.serving.results import Load, ServingOptions, ServingResults
from unichoir.benchmark.serving.server import running
from unichoir.benchmark.serving.soak import make_jobs, run_soak
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer

DEFAULT_MAX_SESSIONS = 200


def run_serving_benchmark(
    model: str,
    load_recognizer: Callable[[], Recognizer],
    options: ServingOptions,
    audio: Path | None,
    target: Target | None,
    progress: Progress,
) -> ServingResults:
    """Measure a server.

    model: the argument for `unichoir serve --model`; load_recognizer: loads the same model for the expected texts;
    target: a running server; None: start one. Raises UnichoirError for recordings or models that cannot be loaded, and
    for a server that does not start, dies, or does not end.
    """
    begin = time.perf_counter()
    machine = describe_machine(options.threads)
    if target:
        Probe(target, None).snapshot()  # fails early if the server is unreachable
    recordings, description = load_recordings(audio)
    short = short_recordings(recordings) if options.sessions else []
    recordings = recordings if options.clients else []
    decoded, chunk_seconds = _with_expected_texts([*recordings, *short], load_recognizer, options, progress)
    recordings, short = decoded[: len(recordings)], decoded[len(recordings) :]
    code, errors = None, []
    arguments = _server_arguments(model, options)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running(arguments)) if target is None else None
        address = server.target if server else target
        assert address is not None
        probe = Probe(address, server.pid if server else None)
        clients = stack.enter_context(child(Clients(address), "the clients"))
        loads = tuple(
            _play(clients, probe, recordings, count, options, chunk_seconds, progress) for count in options.clients
        )
        soak = None
        if options.sessions:
            jobs = make_jobs(short, options.sessions, options.dropped, options.hostile)
            soak = run_soak(clients, probe, jobs, lambda done: progress("sessions", done, len(jobs)))
        if server:
            code = server.stop()
            errors = server.errors
    return ServingResults(
        machine=machine,
        model=model,
        server=" ".join(["unichoir serve", *arguments]) if target is None else target.url,
        audio=description,
        options=options,
        loads=loads,
        soak=soak,
        exit_code=code,
        server_errors=tuple(errors),
        seconds=time.perf_counter() - begin,
    )


def _server_arguments(model: str, options: ServingOptions) -> list[str]:
    # A client starts its next session while the last one waits for its result: there may be more sessions than clients.
    max_sessions = max(DEFAULT_MAX_SESSIONS, 2 * max(options.clients, default=0))
    numbers = {
        "--chunk-size": options.chunk_size,
        "--num-left-chunks": options.left_chunks,
        **({"--threads": options.threads} if options.threads else {}),
        **({"--engines": options.engines} if options.engines else {}),
        "--max-sessions": max_sessions,
    }
    return ["--model", model, *(word for name, number in numbers.items() for word in (name, str(number)))]


def _with_expected_texts(
    recordings: Sequence[Recording],
    load_recognizer: Callable[[], Recognizer],
    options: ServingOptions,
    progress: Progress,
) -> tuple[list[Recording], float]:
    """Add the expected texts, and return the seconds of a chunk. The model is freed, as the server loads its own."""
    progress("loading the model", 0, len(recordings))
    streaming = StreamingOptions(chunk_size=options.chunk_size, num_left_chunks=options.left_chunks)
    recognizer = load_recognizer()
    decoded = with_expected_texts(
        recordings, recognizer, streaming, lambda done: progress("expected texts", done, len(recordings))
    )
    return decoded, options.chunk_size * recognizer.reader.clock.step_ms / 1000


def _play(
    clients: Child,
    probe: Probe,
    recordings: Sequence[Recording],
    count: int,
    options: ServingOptions,
    chunk_seconds: float,
    progress: Progress,
) -> Load:
    before = probe.idle_snapshot()
    begin = time.monotonic()
    clients.ask("play", recordings, count, options.play_seconds, chunk_seconds)
    while not clients.connection.poll(1.0):
        elapsed = round(min(time.monotonic() - begin, options.play_seconds))
        progress(f"{count} clients, seconds", elapsed, round(options.play_seconds))
    played: Played = clients.answer()
    return Load(
        clients=count,
        chunk_seconds=chunk_seconds,
        seconds=played.seconds,
        sessions=played.sessions,
        before=before,
        after=probe.idle_snapshot(),
        clients_cpu_seconds=played.cpu_seconds,
    )
