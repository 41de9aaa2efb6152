"""Write the texts of the English language model: one sentence per line, in the style of transcripts.

    python recipes/english/lm_text.py DATA OUTPUT

DATA holds `text/*.txt` and `text/*.txt.xz` (one sentence per line) and a folder for each set with its `train.jsonl`;
dev and test are never read. Sentences are converted to lower case without marks, except the apostrophe within a word,
and titles are spelled out. Sentences with digits are left out, because their pronunciation is unknown.

Sources that differ from books get their own files (`KINDS`), which can be weighted; the rest is `general.txt`.
"""

import argparse
import json
import lzma
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unichoir.text.normalize import normalize_for_scoring

KINDS = {
    "common_voice_sentences_en.txt": "sentences",
    "cv1_dev_en": "sentences",
    "an4": "spelled",
    "speechocean762": "lessons",
    "fsdd": "prompts",
    "asterisk_prompts": "prompts",
    "ovos_words": "prompts",
    "picovoice_coffee": "prompts",
    "picovoice_wakewords": "prompts",
    "speech_commands_3w": "prompts",
}
"""Contemporary spoken sentences; spelled names and numbers; an English course; words and short commands."""
TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "messrs": "messieurs"}
_TITLE = re.compile(r"\b(mr|mrs|dr|messrs)\b")


def plain(text: str) -> str:
    """Convert `Mr. Aurélie's, "No!"` to `mister aurelie's no`; empty for digits and letters that are not English."""
    decomposed = unicodedata.normalize("NFKD", text)
    letters = "".join(each for each in decomposed if not unicodedata.combining(each))
    text = _TITLE.sub(lambda match: TITLES[match[1]], normalize_for_scoring(letters).lower())
    return text if re.fullmatch(r"[a-z' ]+", text) else ""


def sentences(data: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each source and a sentence."""
    for path in sorted(data.glob("text/*.txt*")):
        with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as file:
            yield from ((path.name, line) for line in file)
    for path in sorted(data.glob("*/train.jsonl")):
        records = map(json.loads, path.read_text("utf-8").splitlines())
        yield from ((path.parent.name, record["txt"]) for record in records if record.get("lang") == "en")


def main() -> None:
    """Write the files and print the number of words of each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with text/ and the sets")
    parser.add_argument("output", type=Path, help="folder for general.txt and the others")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    kinds = dict.fromkeys(["general", *KINDS.values()])
    files = {kind: (arguments.output / f"{kind}.txt").open("w", encoding="utf-8", newline="\n") for kind in kinds}
    words: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for source, text in sentences(arguments.data):
        line, kind = plain(text), KINDS.get(source, "general")
        words[f"{kind}.txt: {source}"] += len(line.split())
        dropped[f"{kind}.txt: {source}"] += not line and bool(text.strip())
        if line:
            files[kind].write(line + "\n")
    for file in files.values():
        file.close()
    for name, count in words.items():
        print(f"{name}: {count} words, {dropped[name]} sentences left out")


if __name__ == "__main__":
    main()
