"""Compare n-gram language models in training, search and loading, for docs/results/language-model.md.

    python experiments/language_model.py chain 1000000 chain.txt
    python experiments/language_model.py train an4/train.jsonl chain.txt --orders 3 --lmplz kenlm/build/bin/lmplz
    python experiments/language_model.py perplexity words.arpa.gz an4/dev.jsonl
    python experiments/language_model.py packed lm.bin --manifests an4/dev.jsonl cv1_dev_en/dev.jsonl
    python experiments/language_model.py search an4/dev.jsonl --lm words.arpa.gz tokens.arpa.gz
    python experiments/language_model.py read chain.arpa chain.arpa.gz chain.binary
    python experiments/language_model.py defaults TABLE...

`chain` writes a random text. `train` trains like `unichoir lm train`, each time in a new process, prints processor time
and peak memory, and compares all n-grams with those of `lmplz -o N --discount_fallback`, in log10. `packed` prints the
perplexity of known words with packed models, in lower case, and in brackets the fraction of unknown words. `search`
prints the processor time of the prefix beam. `read` loads files like the recogniser. For an .arpa it also builds a
transducer if kaldilm and kaldifst are installed. `defaults` sums the tables printed by `unichoir lm tune`, one per
file, and shows the weights with the lowest total error rate.
"""

import argparse
import importlib.util
import multiprocessing
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.recognition.options import DecodingOptions
from unichoir.search.arpa import open_model
from unichoir.search.prefix_beam import ctc_prefix_beam_search
from unichoir.text.ngram import train_ngram, write_arpa
from unichoir.text.packed_ngram import PackedNgram

BEAM, ROUNDS, QUERIES = 10, 5, 100_000
VOCABULARY = 50_000


def sentences(path: Path) -> Iterator[list[str]]:
    """Yield the words of each sentence in a manifest's transcripts or in a text."""
    if path.suffix == ".jsonl":
        return (utterance.txt.split() for utterance in read_manifest(path))
    return map(str.split, path.read_text("utf-8").splitlines())


def apart(function: Callable[..., Any], *arguments: object) -> Any:
    """Return the result of a function in a new process, whose memory isn't affected by earlier work."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_megabytes() -> float:
    """Return the peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def write_chain(words: int, output: Path) -> None:
    """Write a random chain over 50,000 words: half follow from the previous word, and few are frequent."""
    rng = np.random.default_rng(1)
    drawn = (rng.zipf(1.25, words) - 1) % VOCABULARY
    drawn = np.where(rng.random(words) < 0.5, (np.roll(drawn, 1) * 7919 + drawn % 20) % VOCABULARY, drawn)
    done = 0
    with output.open("w") as file:
        while done < words:
            length = int(rng.integers(3, 25))
            file.write(" ".join(f"W{word}" for word in drawn[done : done + length]) + "\n")
            done += length


def read_entries(path: Path) -> dict[str, tuple[float, float]]:
    """Read log-probability and backoff of each n-gram of an ARPA file except <s>, whose convention varies."""
    lines = (line.rstrip("\n").split("\t") for line in path.open(encoding="utf-8"))
    found = {f[1]: (float(f[0]), float(f[2]) if len(f) > 2 else 0.0) for f in lines if len(f) > 1}
    del found["<s>"]
    return found


def train(text: Path, order: int, output: Path) -> tuple[float, float]:
    """Return the processor time in seconds to train and write, and the peak memory in MB."""
    begun = time.process_time()
    with output.open("wb") as file:
        for _ in write_arpa(train_ngram(sentences(text), order), file):
            pass
    return time.process_time() - begun, peak_megabytes()


def train_lmplz(lmplz: Path, text: Path, order: int, output: Path) -> float:
    """Return the processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [lmplz, "-o", str(order), "--discount_fallback", "-S", "1G", "-T", output.parent]
    with text.open("rb") as source, output.open("wb") as sink:
        subprocess.run(command, stdin=source, stdout=sink, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def largest_difference(ours: Path, theirs: Path) -> float:
    """Return the largest difference of all log-probabilities and backoffs. Both files must have the same n-grams."""
    made, expected = read_entries(ours), read_entries(theirs)
    if made.keys() != expected.keys():
        raise SystemExit(f"{len(made.keys() ^ expected.keys())} n-grams are only in one of the models")
    return float(np.abs(np.subtract([made[key] for key in made], [expected[key] for key in made])).max())


def measure_trainers(texts: Sequence[Path], orders: Sequence[int], lmplz: Path | None) -> None:
    """Print a row for each text and order."""
    print("| text | words | order | n-grams | seconds | of lmplz | memory at the peak | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as name:
        plain, ours, theirs = (Path(name, each) for each in ("plain.txt", "ours.arpa", "theirs.arpa"))
        for text in texts:
            plain.write_text("".join(" ".join(words) + "\n" for words in sentences(text)), encoding="utf-8")
            words = sum(map(len, sentences(plain)))
            for order in orders:
                seconds, peak = apart(train, plain, order, ours)
                with ours.open(encoding="utf-8") as lines:
                    count = sum("\t" in line for line in lines)
                beside = [""] * 2
                if lmplz is not None:
                    beside = [f"{train_lmplz(lmplz, plain, order, theirs):.1f}"]
                    beside.append(f"{largest_difference(ours, theirs):.0e}")
                cells = [text, f"{words:,}", order, f"{count:,}", f"{seconds:.1f}", beside[0], f"{peak:.0f} MB"]
                print(f"| {' | '.join(map(str, [*cells, beside[1]]))} |", flush=True)


def measure_perplexity(path: Path, manifests: Sequence[Path]) -> None:
    """Print the perplexity of transcripts, including ends of sentences, the unknown words, and the known trigrams."""
    model, words = open_model(str(path))
    known, order = set(words), model.order
    print(
        "| set | perplexity | unknown words | n-grams of the highest order that it has |\n| --- | ---: | ---: | ---: |"
    )
    for manifest in manifests:
        texts = list(sentences(manifest))
        total = sum(model.score(" ".join(text)) for text in texts)
        scored = [match for text in texts for match in model.full_scores(" ".join(text))]
        unknown = sum(word not in known for text in texts for word in text)
        longest = sum(length == order for _, length, _ in scored) / len(scored)
        perplexity = 10 ** (-total / len(scored))
        print(f"| {manifest.parent.name}/{manifest.stem} | {perplexity:.5f} | {unknown} | {100 * longest:.0f} % |")


def measure_packed(models: Sequence[Path], manifests: Sequence[Path]) -> None:
    """Print a row for each file: its n-grams and, for each set, perplexity and the fraction of unknown words."""
    print(f"| file | MB | n-grams | {' | '.join(manifest.parent.name for manifest in manifests)} |")
    print(f"| --- | ---: | ---: |{' ---: |' * len(manifests)}")
    for path in models:
        model, cells = PackedNgram(path), []
        for manifest in manifests:
            scores, unknown = [], 0
            for text in sentences(manifest):
                state = model.begin()
                for word in [*(word.lower() for word in text), "</s>"]:
                    state, score, known = model.score(state, word)
                    scores += [score] if known else []
                    unknown += not known
            perplexity = 10 ** (-sum(scores) / len(scores))
            cells.append(f"{perplexity:.0f} ({100 * unknown / (len(scores) + unknown):.1f} %)")
        counts = " + ".join(f"{count:,}" for count in model.counts)
        print(f"| {path.name} | {path.stat().st_size / 1e6:.1f} | {counts} | {' | '.join(cells)} |", flush=True)


def measure_search(manifest: Path, models: Sequence[Path], name: str | None) -> None:
    """Print the processor time of the prefix beam per frame."""
    recognizer = load_recognizer(name, num_threads=1)
    options = DecodingOptions(mode="ctc_prefix_beam_search", beam_size=BEAM)
    encoded = []
    for utterance in read_manifest(manifest):
        feats = compute_fbank(load_utterance(utterance), recognizer.fbank_config)
        encoded.append(recognizer.recordings.encode([feats], options)[0][1])
    frames = sum(map(len, encoded))
    print(f"{frames} frames\n\n| language model | us for a frame |\n| --- | ---: |")
    for path in [None, *models]:
        scorer = load_recognizer(name, 1, None, "cpu", path).search.scorer(options)
        rounds = []
        for _ in range(ROUNDS):
            begun = time.process_time()
            for log_probs in encoded:
                ctc_prefix_beam_search(log_probs, BEAM, scorer=scorer)
            rounds.append((time.process_time() - begun) / frames)
        print(f"| {path or 'none'} | {1e6 * np.median(rounds):.0f} |", flush=True)


def read_model(path: Path) -> list[str]:
    """Return cells: processor seconds to open a file, megabytes that this takes, microseconds to score a word."""
    import kenlm

    before, begun = peak_megabytes(), time.process_time()
    model, words = open_model(str(path))
    seconds, megabytes = time.process_time() - begun, peak_megabytes() - before
    drawn = [words[index] for index in np.random.default_rng(1).integers(len(words), size=QUERIES)]
    state = kenlm.State()
    model.BeginSentenceWrite(state)
    begun = time.process_time()
    for word in drawn:
        after = kenlm.State()
        model.BaseScore(state, word, after)
        state = after
    query = (time.process_time() - begun) / QUERIES
    return [f"KenLM, {path.name}", f"{seconds:.2f} s", f"{megabytes:.0f} MB", f"{1e6 * query:.1f} us"]


def read_transducer(path: Path) -> list[str]:
    """Return the same cells for Kaldi's tools; the last is the time for one arc."""
    import kaldifst
    import kaldilm

    with tempfile.TemporaryDirectory() as name:
        fst = str(Path(name, "lm.fst"))
        before, begun = peak_megabytes(), time.process_time()
        kaldilm.arpa2fst(str(path), fst, disambig_symbol="#0", max_arpa_warnings=0)
        converted, begun = time.process_time() - begun, time.process_time()
        read = kaldifst.StdVectorFst.read(fst)
        seconds, megabytes = time.process_time() - begun, peak_megabytes() - before
    begun = time.process_time()
    arcs = sum(1 for state in range(min(2000, read.num_states)) for _ in kaldifst.ArcIterator(read, state))
    arc = (time.process_time() - begun) / arcs
    return [
        f"kaldilm and kaldifst, {path.name}",
        f"{converted:.1f} + {seconds:.2f} s",
        f"{megabytes:.0f} MB",
        f"{1e6 * arc:.1f} us",
    ]


def measure_reading(paths: Sequence[Path]) -> None:
    """Print a row for each file."""
    print("| read by | to load | memory | a word (an arc) |\n| --- | ---: | ---: | ---: |")
    for path in paths:
        print(f"| {' | '.join(apart(read_model, path))} |", flush=True)
        if path.suffix == ".arpa" and importlib.util.find_spec("kaldilm") and importlib.util.find_spec("kaldifst"):
            print(f"| {' | '.join(apart(read_transducer, path))} |", flush=True)


def sum_tables(paths: Sequence[Path]) -> None:
    """Print the weights in all tables, those with the lowest total errors first. All tables must have the same sets."""
    sums: dict[tuple[float, float], list[float]] = {}
    for path in paths:
        head, _, *rows = (line.strip("| \n").split("|") for line in path.read_text("utf-8").splitlines() if "|" in line)
        for row in rows:
            for bonus, cell in zip(head[1:], row[1:], strict=False):
                if cell.strip():
                    sums.setdefault((float(row[0]), float(bonus)), []).append(float(cell))
    means = {pair: sum(rates) / len(rates) for pair, rates in sums.items() if len(rates) == len(paths)}
    print("| weight | bonus | mean WER % |\n| ---: | ---: | ---: |")
    for (weight, bonus), rate in sorted(means.items(), key=lambda item: item[1])[:5]:
        print(f"| {weight:g} | {bonus:g} | {rate:.2f} |")


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    chain = commands.add_parser("chain")
    chain.add_argument("words", type=int)
    chain.add_argument("output", type=Path)
    trainer = commands.add_parser("train")
    trainer.add_argument("texts", nargs="+", type=Path)
    trainer.add_argument("--orders", nargs="+", type=int, default=[3])
    trainer.add_argument("--lmplz", type=Path)
    perplexity = commands.add_parser("perplexity")
    perplexity.add_argument("lm", type=Path)
    perplexity.add_argument("manifests", nargs="+", type=Path)
    packed = commands.add_parser("packed")
    packed.add_argument("lm", nargs="+", type=Path)
    packed.add_argument("--manifests", nargs="+", type=Path, required=True)
    search = commands.add_parser("search")
    search.add_argument("manifest", type=Path)
    search.add_argument("--lm", nargs="+", type=Path, required=True)
    search.add_argument("--model")
    for name in ("read", "defaults"):
        commands.add_parser(name).add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    match given.command:
        case "chain":
            write_chain(given.words, given.output)
        case "train":
            measure_trainers(given.texts, given.orders, given.lmplz)
        case "perplexity":
            measure_perplexity(given.lm, given.manifests)
        case "packed":
            measure_packed(given.lm, given.manifests)
        case "search":
            measure_search(given.manifest, given.lm, given.model)
        case "read":
            measure_reading(given.files)
        case "defaults":
            sum_tables(given.files)


if __name__ == "__main__":
    main()
