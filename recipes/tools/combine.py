"""Write one manifest from several, some of them repeated: python combine.py [--words] OUT MANIFEST[:TIMES]...

Each repetition of an utterance gets its own key, and so its own augmentation in every epoch. Repetition gives small
sets the same weight as large ones.
"""

import argparse
import json
import os
import re
from pathlib import Path


def words(text: str) -> str:
    """Return a transcript as lower-case English words: letters and apostrophes only."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")).split())


def main() -> None:
    """Combine according to the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST[:TIMES]")
    parser.add_argument("--words", action="store_true", help="convert transcripts to lower-case English words")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    # The file is written atomically, so a recipe that was stopped can tell that it is complete.
    partial = output.with_name(output.name + ".partial")
    with partial.open("w", encoding="utf-8") as combined:
        for argument in arguments.manifests:
            name, _, times = argument.partition(":")
            manifest = Path(name)
            corpus = manifest.resolve().parent.name
            for line in manifest.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                wav = os.path.relpath(manifest.parent.resolve() / row["wav"], output.parent.resolve())
                text = words(row["txt"]) if arguments.words else row["txt"]
                for turn in range(int(times or 1)):
                    key = f"{corpus}/{row['key']}/{turn}"
                    made = {**row, "key": key, "wav": wav, "txt": text}
                    combined.write(json.dumps(made, ensure_ascii=False) + "\n")
    os.replace(partial, output)


if __name__ == "__main__":
    main()
