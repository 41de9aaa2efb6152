"""`unichoir align`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from unichoir.cli._shared.arguments import (
    ChannelOption,
    DeviceOption,
    ModelArguments,
    StrictOption,
    parse_channel,
)
from unichoir.cli._shared.common import STANDARD_INPUT, note, progress_bar, refuse, warn, write_whole
from unichoir.cli._shared.fleet import MAX_NAMED, model_source, report_failures
from unichoir.cli._shared.formats import SubtitleArguments, parse_formats
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen, Only
from unichoir.engine.device import Device
from unichoir.errors import DecodingError
from unichoir.recognition.options import DecodingOptions
from unichoir.search.options import DEFAULT_LM
from unichoir.transcript.formats import FORMATS, Format, write_transcript
from unichoir.transcript.subtitles import SubtitleOptions


@dataclass(frozen=True, kw_only=True)
class ManifestArguments:
    """Alignment of many recordings with their texts."""

    PANEL: ClassVar[str] = "Manifests"

    output_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the results of a manifest. The same command continues an interrupted run.",
            file_okay=False,
            show_default=False,
        ),
    ] = None
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Align again what failed earlier.")] = False

    def align(
        self,
        manifest: str,
        model: ModelArguments,
        device: Device,
        options: DecodingOptions,
        formats: Sequence[Format],
        subtitles: SubtitleOptions,
    ) -> None:
        """Align the manifest and write the results. Exits with code 1 if an utterance failed."""
        from unichoir.fleet.align import align, write_alignments
        from unichoir.fleet.transcribe import read_utterances
        from unichoir.recognition.forced import LOW_CONFIDENCE

        if self.output_dir is None:
            raise typer.BadParameter("needed for a manifest", param_hint="--output-dir")
        utterances, source = read_utterances([manifest]), model_source(model, device)
        with progress_bar("aligning", "utterances") as progress:
            results = align(
                utterances, self.output_dir, source, options, retry_failed=self.retry_failed, progress=progress
            )
        write_alignments(self.output_dir, utterances, formats, subtitles)
        doubtful = [each for each in results if each.get("confidence", 1) < LOW_CONFIDENCE]
        for each in doubtful[:MAX_NAMED]:
            _warn(each["key"], each["confidence"])
        if len(doubtful) > MAX_NAMED:
            note(f"and {len(doubtful) - MAX_NAMED} more below {LOW_CONFIDENCE}")
        report_failures({each["key"]: each["error"] for each in results if "error" in each}, self.output_dir)


@grouped
def align(
    audio: Annotated[
        str,
        typer.Argument(
            metavar="AUDIO|MANIFEST",
            help="Recording of any length. - is standard input. With --output-dir: a manifest, which has the texts.",
            show_default=False,
        ),
    ],
    model: ModelArguments,
    decoding: Annotated[Chosen[DecodingOptions], Only("language")],
    subtitles: SubtitleArguments,
    many: ManifestArguments,
    text_file: Annotated[
        Path | None,
        typer.Argument(metavar="[TEXT]", help="File with the text, in UTF-8.", show_default=False),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="STRING", help="The text, in place of a file.", show_default=False)
    ] = None,
    output_format: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT[,...]", help=f"Output formats: {', '.join(FORMATS)}."),
    ] = "json",
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Output file, in place of standard output.", dir_okay=False, show_default=False
        ),
    ] = None,
    channel: ChannelOption = None,
    strict: StrictOption = False,
    device: DeviceOption = "cpu",
) -> None:
    """Find when each word of a known text is said (forced alignment).

    Lines of the text become segments in JSON, TSV and TextGrids, and end subtitles. The text must match the audio: if
    it doesn't seem to, you get a warning on standard error. Utterances of a manifest that cannot be aligned are
    reported, the others are aligned, and the exit code is 1.

    Examples:

        unichoir align recording.flac text.txt --format textgrid --output recording.TextGrid

        unichoir align recording.flac --text "SIX FOUR EIGHT THREE" --format ctm

        unichoir align dev.jsonl --output-dir aligned --format ctm,textgrid
    """
    from unichoir.recognition.forced import LOW_CONFIDENCE, words_by_line

    formats = parse_formats(output_format)
    shown = subtitles.options(formats)
    options = decoding.make()
    refuse({"--lm": model.lm != DEFAULT_LM}, "has no effect on an alignment: the words are known")
    if many.output_dir is not None:
        alone = {"TEXT": text_file, "--text": text, "--output": output, "--channel": channel, "--strict": strict}
        refuse(alone, "cannot be used with --output-dir")
        many.align(audio, model, device, options, formats, shown)
        return
    refuse({"--retry-failed": many.retry_failed}, "needs --output-dir")
    if (text is None) == (text_file is None):
        raise typer.BadParameter("give a file or --text", param_hint="TEXT")
    if len(formats) > 1:
        raise typer.BadParameter("several formats need a manifest and --output-dir", param_hint="--format")
    chosen = parse_channel(channel)
    if chosen == "each":
        raise typer.BadParameter("an alignment needs one channel: N or mix", param_hint="--channel")
    if text is None:
        text = _read(text_file or Path())
    loaded = model.load(device)
    with progress_bar("aligning", "s") as bar:
        transcript = loaded.align(
            sys.stdin.buffer if audio == STANDARD_INPUT else audio,
            text,
            options=options,
            progress=lambda done, total: bar(round(done), round(total)),
            channel=chosen,
            strict=strict,
        )
    warn(transcript.warnings)
    written = write_transcript(transcript, formats[0], audio, shown, segments=words_by_line(transcript.words, text))
    if output is None:
        sys.stdout.write(written)
    else:
        write_whole(output, written)
    if transcript.confidence < LOW_CONFIDENCE:
        _warn(audio, transcript.confidence)


def _warn(name: str, confidence: float) -> None:
    note(f"warning: {name}: confidence {confidence:.2f}: the text may not match the audio")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DecodingError(f"{path}: not UTF-8") from None
