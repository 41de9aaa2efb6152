"""Measure how much live audio one process recognises with one engine and with several, for docs/results/serving.md.

    python experiments/engines.py an4/dev.jsonl
    python experiments/engines.py an4/dev.jsonl --mode ctc_prefix_beam_search
    python experiments/engines.py an4/dev.jsonl --engines 1,2,4,8 --sessions 32

Sessions play the utterances of a manifest, one after the other, in blocks of 100 ms and as fast as the engine takes
them, without a network. The numbers of engines alternate, round by round. The script prints, for each: seconds of audio
per second, cores kept busy, processor time for a second of audio by kind of thread, and whether all texts are the same
as with the first number. It compares processor times, which other work on the machine changes little.
"""

import argparse
import asyncio
import os
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unichoir.api import load_recognizer
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.recognition.options import StreamingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.serving.engine import Engine
from unichoir.serving.metrics import Metrics
from unichoir.serving.session import Failed
from unichoir.serving.settings import Settings
from unichoir.transcript.results import StreamResult

RATE = 16000
BLOCK = RATE // 10
KINDS = ("engine", "background", "event loop")
Round = tuple[float, dict[str, float], list[str]]
"""Seconds, processor seconds by kind of thread, and texts."""


def thread_seconds() -> dict[str, float]:
    """Return the processor seconds of all Python threads so far, by kind."""
    found: dict[str, float] = defaultdict(float)
    for thread in threading.enumerate():
        fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        kind = next((kind for kind in KINDS if thread.name.startswith(f"unichoir-{kind}")), "event loop")
        found[kind] += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


async def play(engine: Engine, samples: NDArray[np.int16]) -> str:
    """Return the text of one session."""
    session = engine.open_session()

    async def send() -> None:
        for begin in range(0, len(samples), BLOCK):
            await session.send(samples[begin : begin + BLOCK], RATE)
        session.finish()

    sending, finals = asyncio.create_task(send()), []
    async for event in session.events():
        if isinstance(event, Failed):
            raise SystemExit(event.message)
        if isinstance(event, StreamResult) and event.is_final:
            finals.append(event.text)
    await sending
    session.close()
    return " ".join(finals)


async def play_all(recognizer: Recognizer, clips: Sequence[NDArray[np.int16]], settings: Settings, count: int) -> Round:
    """Play all clips in `count` sessions at a time."""
    engine, texts = Engine(recognizer, settings, Metrics()), [""] * len(clips)
    waiting: Iterator[tuple[int, NDArray[np.int16]]] = iter(enumerate(clips))

    async def client() -> None:
        for place, clip in waiting:
            texts[place] = await play(engine, clip)

    engine.start()
    before, begin = thread_seconds(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(count)))
    seconds, after = time.perf_counter() - begin, thread_seconds()
    await engine.stop()
    return seconds, {kind: after[kind] - before[kind] for kind in KINDS}, texts


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--model", default=None, help="default: the included model")
    parser.add_argument("--mode", default="attention_rescoring", help="ctc_prefix_beam_search: without a second pass")
    parser.add_argument("--engines", default="1,2", metavar="NUMBERS")
    parser.add_argument("--sessions", type=int, default=8, help="at a time")
    parser.add_argument("--utterances", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    recognizer = load_recognizer(options.model, 1)
    utterances = read_manifest(options.manifest)[: options.utterances]
    clips = [(load_utterance(each, RATE) * 32767).astype(np.int16) for each in utterances]
    audio = sum(map(len, clips)) / RATE
    counts = [int(each) for each in options.engines.split(",")]
    rounds: dict[int, list[Round]] = {count: [] for count in counts}
    for number in range(options.rounds + 1):
        for count in counts:
            settings = Settings(
                model_name="", streaming=StreamingOptions(mode=options.mode), engines=count, max_backlog_seconds=2.0
            )
            found = asyncio.run(play_all(recognizer, clips, settings, options.sessions))
            if number:  # the first round warms up
                rounds[count].append(found)
    expected = rounds[counts[0]][0][2]
    print(f"{audio:.0f} s of audio, {options.sessions} sessions, {options.mode}, median of {options.rounds} rounds\n")
    print("| engines | audio s/s | cores busy | " + " | ".join(f"{kind}, ms/s" for kind in KINDS) + " | same texts |")
    print("|---" * (len(KINDS) + 4) + "|")
    for count, found in rounds.items():
        speed = statistics.median(audio / seconds for seconds, _, _ in found)
        busy = statistics.median(sum(used.values()) / seconds for seconds, used, _ in found)
        used = [statistics.median(used[kind] for _, used, _ in found) / audio * 1000 for kind in KINDS]
        same = all(texts == expected for _, _, texts in found)
        cells = [str(count), f"{speed:.1f}", f"{busy:.2f}", *(f"{each:.1f}" for each in used), "yes" if same else "no"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
