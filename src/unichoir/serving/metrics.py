"""What the server counts, for Prometheus."""

import asyncio
import threading

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from unichoir.recognition.latency import LatencyReport

LATENCY_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.64, 0.8, 1, 1.5, 2, 3, 5, 10)
"""Seconds; 0.64 is a chunk of 16 frames."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        # A second series for each, which no one looks at.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.sessions = Gauge("unichoir_sessions", "Open live sessions", registry=registry)
        self.sessions_ended = Counter(
            "unichoir_sessions_ended",
            "Live sessions that have ended, by WebSocket protocol and outcome",
            ["protocol", "outcome"],
            registry=registry,
        )
        self.uploads = Gauge("unichoir_uploads", "Uploaded recordings that are recognised or wait", registry=registry)
        self.refusals = Counter(
            "unichoir_refusals",
            "Refused requests and sessions, by the code of the error",
            ["reason"],
            registry=registry,
        )
        self.queue_seconds = Gauge(
            "unichoir_queue_seconds",
            "Audio of live sessions that waits to be recognised, in seconds",
            registry=registry,
        )
        self.batch_size = Histogram(
            "unichoir_batch_size",
            "Streams that one call of the encoder computes together",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "unichoir_step_seconds",
            "Duration of one step of the engine over the live streams",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.audio_seconds = Counter(
            "unichoir_audio_seconds", "Audio that has been recognised, in seconds", registry=registry
        )
        self.compute_seconds = Counter(
            "unichoir_compute_seconds",
            "Time that recognition took. Divided by the audio: the real-time factor",
            registry=registry,
        )
        self.first_partial = self._latency(
            "first_partial", "Time from the audio of the first word to the first partial result"
        )
        self.partial_lag = self._latency("partial_lag", "How far results are behind the audio that has arrived")
        self.final_latency = self._latency("final_latency", "Time from the end of the input to the last final result")
        tasks = Gauge("unichoir_tasks", "Tasks in the event loop", registry=registry)
        tasks.set_function(lambda: len(asyncio.all_tasks()))
        threads = Gauge("unichoir_threads", "Python threads", registry=registry)
        threads.set_function(threading.active_count)

    def observe(self, latency: LatencyReport) -> None:
        """Add the latencies of a session."""
        histograms = {
            self.first_partial: latency.first_partial,
            self.partial_lag: latency.partial_lag,
            self.final_latency: latency.final_after_input,
        }
        for histogram, values in histograms.items():
            for value in values:
                histogram.observe(value)

    def render(self) -> bytes:
        """All of them, as Prometheus reads them. Only within the event loop."""
        return generate_latest(self.registry)

    def _latency(self, name: str, meaning: str) -> Histogram:
        return Histogram(f"unichoir_{name}_seconds", meaning, buckets=LATENCY_BUCKETS, registry=self.registry)
