"""Write one training manifest from several, some of them repeated: python combine.py OUT MANIFEST[:TIMES]...

A repeated utterance gets a key of its own, and so an augmentation of its own in every epoch. Repeating is how small
sets are heard as often as large ones.
"""

import json
import os
import sys
from pathlib import Path


def main() -> None:
    """Combine as the command line says."""
    output = Path(sys.argv[1])
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w", encoding="utf-8") as combined:
        for argument in sys.argv[2:]:
            name, _, times = argument.partition(":")
            manifest = Path(name)
            corpus = manifest.resolve().parent.name
            for line in manifest.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                wav = os.path.relpath(manifest.parent.resolve() / row["wav"], output.parent.resolve())
                for turn in range(int(times or 1)):
                    key = f"{corpus}/{row['key']}/{turn}"
                    combined.write(json.dumps({**row, "key": key, "wav": wav}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
