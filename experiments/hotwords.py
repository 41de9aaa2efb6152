"""Measure recall, false alarms, word errors and cost of hotwords on dev sets, for docs/results/hotwords.md.

    python experiments/hotwords.py cv1_dev_en/dev.jsonl \\
        --texts {an4,cv1_dev_en,fsdd,ljspeech_part1,speechocean762}/train.jsonl

`--texts` are the training texts of the model. The hotwords of a set are its rare words: words of its references with
three letters or more that occur at most `--rare` times, all in one list. Distractors are phrases of one to three words
from the texts that share no word with the set's references. Recall is the fraction of the rare words' occurrences that
are correct in the alignment of the word error rate. A false alarm is a rare word in a hypothesis where the reference
has another word or none.

`--constants` measures other values of two constants instead of boosts: the number of tokens considered per frame, and
the weight of the bonus in rescoring. It uses whole utterances with a boost of 2.
"""

import argparse
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np

from unichoir.api import load_recognizer
from unichoir.audio.fbank import compute_fbank
from unichoir.data.manifest import load_utterance, read_manifest
from unichoir.engine.backend import Floats
from unichoir.recognition.options import DecodingOptions
from unichoir.recognition.recognizer import Recognizer
from unichoir.search import prefix_beam, rescoring
from unichoir.search.hotwords import ContextGraph, Hotword, parse_hotwords
from unichoir.search.options import Mode
from unichoir.search.prefix_beam import PrefixBeam
from unichoir.text.normalize import normalize_for_scoring
from unichoir.text.wer import ErrorCounts, align, count_errors

MODES: tuple[Mode, ...] = ("ctc_prefix_beam_search", "attention_rescoring")


@dataclass(frozen=True)
class Encoded:
    """An utterance ready for the search."""

    words: list[str]
    encoder_out: Floats
    log_probs: Floats


@dataclass
class Score:
    """The result of one set with one list of hotwords."""

    errors: ErrorCounts
    found: int = 0
    rare: int = 0
    false_alarms: int = 0

    def row(self) -> str:
        """Return the cells of a table row."""
        recall = f"{100 * self.found / self.rare:.1f} % ({self.found} of {self.rare})" if self.rare else "-"
        return f"{recall} | {self.false_alarms} | {100 * self.errors.rate:.2f} %"


def words_of(manifest: Path) -> list[list[str]]:
    """Return the words of each utterance, normalised for scoring."""
    return [normalize_for_scoring(utterance.txt).split() for utterance in read_manifest(manifest)]


def encode_set(recognizer: Recognizer, manifest: Path, chunk_size: int | None) -> list[Encoded]:
    """Encode all utterances of a set."""
    options, found = DecodingOptions(chunk_size=chunk_size), []
    for utterance in read_manifest(manifest):
        feats = compute_fbank(load_utterance(utterance), recognizer.fbank_config)
        [(encoder_out, log_probs)] = recognizer.recordings.encode([feats], options)
        found.append(Encoded(normalize_for_scoring(utterance.txt).split(), encoder_out, log_probs))
    return found


def score(recognizer: Recognizer, encoded: Iterable[Encoded], rare: set[str], options: DecodingOptions) -> Score:
    """Search every utterance and count the results."""
    total = Score(count_errors([]))
    for each in encoded:
        best = recognizer.search(each.encoder_out, each.log_probs, options)[0]
        pairs = align(each.words, normalize_for_scoring(recognizer.tokenizer.decode(best.tokens)).split())
        total.errors += count_errors(pairs)
        total.rare += sum(word in rare for word in each.words)
        total.found += sum(pair.reference == pair.hypothesis and pair.reference in rare for pair in pairs)
        total.false_alarms += sum(pair.hypothesis in rare and pair.reference != pair.hypothesis for pair in pairs)
    return total


def draw_distractors(texts: Sequence[list[str]], known: set[str], count: int) -> list[str]:
    """Return phrases of one to three words, none of them in `known`."""
    rng, found = random.Random(0), set[str]()
    runs = [words for words in texts if words]
    for _ in range(1000 * count):
        words, length = rng.choice(runs), rng.randint(1, 3)
        start = rng.randrange(max(len(words) - length, 0) + 1)
        phrase = words[start : start + length]
        if not known.intersection(phrase) and sum(map(len, phrase)) >= 4:
            found.add(" ".join(phrase))
        if len(found) == count:
            return sorted(found)
    raise SystemExit(f"the texts have fewer than {count} phrases without the set's words")


def draw_phrases(manifest: Path, arguments: argparse.Namespace) -> tuple[set[str], list[str]]:
    """Return the rare words of a set, and distractors."""
    texts = [words for path in arguments.texts for words in words_of(path)]
    counts = Counter(word for words in texts for word in words)
    known = {word for words in words_of(manifest) for word in words}
    rare = {word for word in known if counts[word] <= arguments.rare and len(word) > 2}
    print(f"\n{manifest.parent.name}: {len(rare)} rare words, such as {', '.join(sorted(rare)[:8])}\n")
    return rare, draw_distractors(texts, known, arguments.distractors)


def measure_boosts(recognizer: Recognizer, manifest: Path, arguments: argparse.Namespace) -> None:
    """Print the table of one set."""
    rare, distractors = draw_phrases(manifest, arguments)
    print("| chunk | mode | boost | distractors | recall of rare words | false alarms | word error rate |")
    print("|---|---|---|---|---|---|---|")
    for chunk_size in (None, 16):
        encoded = encode_set(recognizer, manifest, chunk_size)
        for mode in MODES:
            for boost in [0.0, *arguments.boosts]:
                for others in [(), distractors] if boost else [()]:
                    hotwords = parse_hotwords((phrase, boost) for phrase in [*sorted(rare), *others]) if boost else ()
                    options = DecodingOptions(mode=mode, hotwords=hotwords)
                    row = score(recognizer, encoded, rare, options).row()
                    print(f"| {chunk_size or 'full'} | {mode} | {boost or '-'} | {len(others)} | {row} |", flush=True)


def measure_constants(recognizer: Recognizer, manifest: Path, arguments: argparse.Namespace) -> None:
    """Print the table for other values of two constants in the code."""
    rare, distractors = draw_phrases(manifest, arguments)
    encoded = encode_set(recognizer, manifest, None)
    tried: list[tuple[ModuleType, str, Mode, Sequence[float]]] = [
        (prefix_beam, "WIDENING", "ctc_prefix_beam_search", (1, 2, 4, 16)),
        (rescoring, "BONUS_WEIGHT", "attention_rescoring", (0, 0.5, 1, 1.5, 2)),
    ]
    print("| mode | constant | | distractors | recall of rare words | false alarms | word error rate |")
    print("|---|---|---|---|---|---|---|")
    for module, name, mode, values in tried:
        chosen = getattr(module, name)
        for value in values:
            setattr(module, name, value)
            for others in ((), distractors):
                hotwords = parse_hotwords((phrase, 2.0) for phrase in [*sorted(rare), *others])
                row = score(recognizer, encoded, rare, DecodingOptions(mode=mode, hotwords=hotwords)).row()
                print(f"| {mode} | {name} | {value:g} | {len(others)} | {row} |", flush=True)
        setattr(module, name, chosen)


def measure_cost(recognizer: Recognizer, manifest: Path, texts: Sequence[Path]) -> None:
    """Print the processor time per frame of the prefix beam, and the size of graphs."""
    encoded = [each.log_probs for each in encode_set(recognizer, manifest, None)]
    vocabulary = sorted({word for path in texts for words in words_of(path) for word in words})
    rng = random.Random(0)
    print("\n| hotwords | nodes | built in | memory | a frame of the prefix beam |\n|---|---|---|---|---|")
    for count in (0, 10, 1_000, 10_000):
        phrases = {" ".join(rng.choices(vocabulary, k=rng.randint(1, 3))): None for _ in range(2 * count)}
        hotwords = tuple(Hotword(phrase) for phrase in list(phrases)[:count])
        begun = time.process_time()
        graph = ContextGraph(hotwords, recognizer.tokenizer) if count else None
        built, rounds = time.process_time() - begun, []
        tracemalloc.start()
        again = ContextGraph(hotwords, recognizer.tokenizer) if count else None
        megabytes = tracemalloc.get_traced_memory()[0] / 1e6
        tracemalloc.stop()
        assert (again is None) == (graph is None)
        for _ in range(5):
            begun = time.process_time()
            for log_probs in encoded:
                PrefixBeam(10, scorer=graph).advance(log_probs)
            rounds.append((time.process_time() - begun) / sum(map(len, encoded)))
        cells = [len(hotwords), len(graph) if graph else 0, f"{1000 * built:.0f} ms", f"{megabytes:.1f} MB"]
        print(f"| {' | '.join(map(str, cells))} | {1e6 * np.median(rounds):.0f} us |", flush=True)


def main() -> None:
    """Run the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", nargs="+", type=Path)
    parser.add_argument("--texts", nargs="+", type=Path, required=True)
    parser.add_argument("--model")
    parser.add_argument("--rare", type=int, default=2)
    parser.add_argument("--distractors", type=int, default=1000)
    parser.add_argument("--boosts", nargs="+", type=float, default=[0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0])
    parser.add_argument("--constants", action="store_true")
    arguments = parser.parse_args()
    recognizer = load_recognizer(arguments.model, num_threads=1)
    for manifest in arguments.manifests:
        (measure_constants if arguments.constants else measure_boosts)(recognizer, manifest, arguments)
    if not arguments.constants:
        measure_cost(recognizer, arguments.manifests[0], arguments.texts)


if __name__ == "__main__":
    main()
