"""Compare the time to read an hour of MP3, M4A and FLAC with ffmpeg, for docs/results/decoding.md.

    python experiments/decoding.py FOLDER

FOLDER keeps the recordings (44.1 kHz stereo). Missing ones are made with ffmpeg from demo/audio/minute.flac. ffmpeg and
the reader, with and without the extra `av`, do the same work: decode, mix to mono, resample to 16 kHz. Each runs in its
own process, alternating, several times. The minimum time of each counts, because other work on the machine only adds
time. Prints a Markdown table.
"""

import subprocess
import sys
from pathlib import Path

SPEECH = Path(__file__).resolve().parent.parent / "demo" / "audio" / "minute.flac"
KINDS = (("mp3", True), ("mp3", False), ("m4a", True), ("flac", True), ("flac", False))
"""Suffixes, and whether FFmpeg's libraries read the file."""
SECONDS = 3600
ROUNDS = 5
FFMPEG = ("ffmpeg", "-v", "error", "-nostdin")
READ = """
import sys
from unichoir.audio import decoders, io
if sys.argv[2] == "plain":
    decoders.has = lambda library: library != "av"
print(sum(map(len, io.audio_blocks(sys.argv[1]))) / 16000)
"""


def make(path: Path) -> None:
    """Make an hour of speech, 44.1 kHz stereo, with 128 kbit/s for lossy formats."""
    source = ["-stream_loop", "-1", "-i", str(SPEECH), "-t", str(SECONDS), "-ar", "44100", "-ac", "2", "-b:a", "128k"]
    subprocess.run([*FFMPEG, "-y", *source, str(path)], check=True)


def measure(command: list[str]) -> tuple[float, float]:
    """Return the processor time in seconds, user and system, and the peak memory in MB of a command."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def main() -> None:
    """Print the table."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    print("| file | install | ffmpeg, s | unichoir, s | times | memory, MB |\n|---|---|---|---|---|---|")
    for suffix, has_av in KINDS:
        install = "av" if has_av else "plain"
        path = folder / f"hour.{suffix}"
        if not path.exists():
            make(path)
        ffmpeg = [*FFMPEG, "-i", str(path), "-f", "f32le", "-ac", "1", "-ar", "16000", "-y", "/dev/null"]
        reader = [sys.executable, "-c", READ, str(path), install]
        rounds = [(measure(ffmpeg), measure(reader)) for _ in range(ROUNDS)]
        theirs = min(seconds for (seconds, _), _ in rounds)
        ours = min(seconds for _, (seconds, _) in rounds)
        memory = max(megabytes for _, (_, megabytes) in rounds)
        print(f"| {suffix} | {install} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    main()
