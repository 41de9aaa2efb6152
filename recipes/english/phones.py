"""Replace the transcripts of a manifest by phones: python phones.py MANIFEST OUT, both in one folder.

Phones are the characters of espeak-ng's IPA for American English, without stress, length and spaces. A model learns
which sounds there are from them sooner than from English spelling. Needs the program espeak-ng (a Debian package).
"""

import argparse
import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Changes of language in brackets, space, stress, length, combining marks.
NOT_PHONES = re.compile(r"\(.*?\)|[\s\u02c8\u02cc\u02d0\u0303\u0329\u0361\u200d()]")


def phones(text: str) -> str:
    """The phones of a transcript. Single letters but `a`, an article as often, are read by their names."""
    cased = re.sub(r"\b[b-z]\b", lambda letter: letter.group().upper(), text.lower())
    spoken = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", "en-us", cased], check=True, capture_output=True, encoding="utf-8"
    )
    return NOT_PHONES.sub("", spoken.stdout)


def main() -> None:
    """Convert as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    manifest, output = arguments.manifest, arguments.output
    if manifest.resolve().parent != output.resolve().parent:
        parser.error(f"{output} must lie in the folder of {manifest}, to which the paths in it are relative")
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    texts = sorted({row["txt"] for row in rows})
    with ThreadPoolExecutor() as pool:
        spoken = dict(zip(texts, pool.map(phones, texts), strict=True))
    with output.open("w", encoding="utf-8") as lines:
        for row in rows:
            lines.write(json.dumps({**row, "txt": spoken[row["txt"]]}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
