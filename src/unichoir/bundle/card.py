"""Model cards: the `README.md` of a model directory, with the front matter that the Hugging Face hub reads.

The front matter is followed by sections, `## Title` and text (https://huggingface.co/docs/hub/model-cards). Commands
write the sections named here, which read "Not stated." until then. All others, and the text before the first section,
are the user's and are kept.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unichoir.bundle.replacing import replace_text
from unichoir.bundle.sums import CARD_FILE
from unichoir.errors import ConfigError, UnichoirError

TITLES = ("Model", "Training data", "Training", "Language", "Licence", "Results")
MODEL, DATA, TRAINING, LANGUAGE, LICENCE, RESULTS = TITLES
NOT_STATED = "Not stated."
TASK = "automatic-speech-recognition"

_FRONT_MATTER = re.compile(r"---\n(?P<yaml>.*?)^---[ \t]*\n?(?P<body>.*)", re.DOTALL | re.MULTILINE)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_INDEX = "model-index"


@dataclass
class Card:
    """A model card.

    `metadata` is the front matter, `sections` the text of each section by title; the empty title stands for the text
    before the first section.
    """

    metadata: dict[str, Any]
    sections: dict[str, str]

    @classmethod
    def new(cls, name: str) -> "Card":
        """Return a new card of a speech recogniser called `name`. Its sections read "Not stated." for now."""
        metadata = {
            "library_name": "unichoir",
            "pipeline_tag": TASK,
            "tags": ["unichoir", TASK, "speech", "conformer", "streaming"],
        }
        use = "A speech recognition model: `unichoir transcribe --model PATH recording.flac`, where PATH is its folder."
        return cls(metadata, {"": f"# {name}\n\n{use}", **dict.fromkeys(TITLES, NOT_STATED)})

    @classmethod
    def read(cls, directory: Path, name: str) -> "Card":
        """Read the card of a model directory. Missing parts come from a new card called `name`.

        Raises ConfigError for a front matter that isn't YAML, UnichoirError if PyYAML isn't installed.
        """
        path, new = directory / CARD_FILE, cls.new(name)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return new
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not UTF-8") from None
        match = _FRONT_MATTER.match(text)
        metadata = _front_matter(match["yaml"], path) if match else {}
        sections = _split(match["body"] if match else text)
        sections[""] = sections[""] or new.sections[""]
        return cls(new.metadata | metadata, sections | {k: v for k, v in new.sections.items() if k not in sections})

    @property
    def name(self) -> str:
        """The heading."""
        match = re.match(r"#\s+(.+)", self.sections[""])
        return match[1].strip() if match else "model"

    def write(self, directory: Path) -> None:
        """Write README.md atomically."""
        parts = [self.sections[""], *(f"## {title}\n\n{text}" for title, text in self.sections.items() if title)]
        path = directory / CARD_FILE
        front = _import_yaml(path).safe_dump(self.metadata, sort_keys=False, allow_unicode=True)
        text = f"---\n{front}---\n\n" + "\n\n".join(part.strip("\n") for part in parts) + "\n"
        replace_text(path, text)

    def state_model(self, facts: Mapping[str, object]) -> None:
        """Write the section about the model, with a row for each fact."""
        self.sections[MODEL] = table(("", ""), list(facts.items()))

    def state_licence(self, licence: str) -> None:
        """Set the licence: an SPDX identifier known to the hub, such as Apache-2.0, or the name of another licence."""
        self.sections[LICENCE] = licence
        self.metadata.pop("license_name", None)
        if re.fullmatch(r"[A-Za-z0-9.+-]+", licence):
            self.metadata["license"] = licence.lower()
        else:
            self.metadata |= {"license": "other", "license_name": licence}

    def state_languages(self, languages: Sequence[str]) -> None:
        """Set the languages as codes such as en or zh. Raises ConfigError for invalid codes."""
        for language in languages:
            if not _LANGUAGE.fullmatch(language):
                raise ConfigError(f"language '{language}': expected a code such as en or zh")
        self.sections[LANGUAGE] = ", ".join(languages)
        self.metadata["language"] = list(languages)

    def state_results(self, results: Sequence[Mapping[str, Any]], sources: Sequence[str]) -> None:
        """Write the error rates of all these `results.json` files of `unichoir evaluate`.

        sources: the names of the files, for messages. Raises ConfigError for a file of another kind.
        """
        scores = [score for content, source in zip(results, sources, strict=True) for score in _scores(content, source)]
        by_set: dict[str, list[dict[str, Any]]] = {}
        for score in scores:
            by_set.setdefault(score.name, []).extend(score.metrics())
        titles = ("set", "decoding", "context", "WER %", "CER %", "words", "measured model")
        self.sections[RESULTS] = (
            "By `unichoir evaluate`; texts normalised as it does; chunks in encoder frames.\n\n"
            + table(titles, [score.row() for score in scores])
        )
        task = {"type": TASK, "name": "Automatic Speech Recognition"}
        index = [
            {"task": dict(task), "dataset": {"name": name, "type": name}, "metrics": metrics}
            for name, metrics in by_set.items()
        ]
        self.metadata[_INDEX] = [{"name": self.name, "results": index}]

    def carry_over(self, how: str) -> None:
        """Turn the card into that of a derived model, whose results were measured on the original model."""
        self.metadata.pop(_INDEX, None)
        if self.sections.get(RESULTS, NOT_STATED) != NOT_STATED:
            note = f"Measured on the model that this one was made from ({how}):"
            self.sections[RESULTS] = f"{note}\n\n{self.sections[RESULTS]}"


@dataclass(frozen=True)
class _Score:
    """The results of one set with one setting; rates in percent."""

    name: str
    mode: str
    context: str
    wer: float
    cer: float
    words: int
    model: str

    def row(self) -> tuple[str, ...]:
        return (self.name, self.mode, self.context, f"{self.wer:.2f}", f"{self.cer:.2f}", str(self.words), self.model)

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics for the hub's model-index."""
        rates = (("wer", self.wer), ("cer", self.cer))
        return [{"type": t, "value": rate, "name": f"{t.upper()} % ({self.mode}, {self.context})"} for t, rate in rates]


def _scores(content: Mapping[str, Any], source: str) -> list[_Score]:
    try:
        return [
            _Score(
                name=score["set"],
                mode=score["mode"],
                context=_context(score["chunk_size"], score["num_left_chunks"]),
                wer=round(100 * score["wer"]["rate"], 2),
                cer=round(100 * score["cer"]["rate"], 2),
                words=score["wer"]["reference"],
                model=content["model"],
            )
            for score in content["scores"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{source}: not a results.json of unichoir evaluate ({error!r})") from None


def _context(chunk_size: int | None, num_left_chunks: int) -> str:
    left = f", {num_left_chunks} to the left" if num_left_chunks >= 0 else ""
    return f"chunks of {chunk_size}{left}" if chunk_size else "full context"


def table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table."""
    cells = [[" ".join(str(cell).split()).replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(titles), ["---"] * len(titles), *cells])


def _split(body: str) -> dict[str, str]:
    """Return the text by title. A repeated title becomes text of the section above it."""
    sections: dict[str, list[str]] = {"": []}
    lines, fenced = sections[""], False
    for line in body.splitlines():
        fenced ^= line.startswith("```")
        title = line.removeprefix("## ").strip() if line.startswith("## ") and not fenced else ""
        if title and title not in sections:
            lines = sections[title] = []
        else:
            lines.append(line)
    return {title: "\n".join(lines).strip("\n") for title, lines in sections.items()}


def _import_yaml(path: Path) -> Any:
    try:
        import yaml
    except ModuleNotFoundError:
        raise UnichoirError(f"{path}: model cards need PyYAML: pip install 'unichoir[hub]'") from None
    return yaml


def _front_matter(text: str, path: Path) -> dict[str, Any]:
    yaml = _import_yaml(path)
    try:
        metadata = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: front matter: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(metadata, dict | None):
        raise ConfigError(f"{path}: front matter: expected a mapping")
    return metadata or {}
