"""`unichoir serve`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from unichoir.cli._shared.arguments import (
    DeviceOption,
    HotwordArguments,
    ModelArguments,
    WrittenArguments,
    refuse_unused,
)
from unichoir.cli._shared.common import refuse
from unichoir.cli._shared.fleet import ReplicaArguments, serve_on_cluster
from unichoir.cli._shared.grouping import grouped
from unichoir.cli._shared.options import Chosen, Only, Without
from unichoir.declaration import declared
from unichoir.engine.device import Device, num_cores
from unichoir.recognition.options import DecodingOptions, StreamingOptions
from unichoir.recognition.vad_options import PANEL as LONG
from unichoir.search.options import SearchOptions
from unichoir.serving.settings import Settings
from unichoir.text.tokenizer import load_tokenizer

SMALL_MODEL = 200_000_000
"""Parameters below which several threads don't make a model faster (docs/results/serving.md)."""
MAX_ENGINES = 8
"""Most engines by default. They share Python's lock, which one of the included model holds for a tenth of its time."""


@dataclass(frozen=True, kw_only=True)
class NetworkArguments:
    """The server's address, and its clients."""

    PANEL: ClassVar[str] = "Network"

    host: Annotated[str, typer.Option(help="Address to listen at. 0.0.0.0: all.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port. 0: any free one.")] = 10086
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="UNICHOIR_API_KEY", metavar="KEY", help="Bearer token that clients must send.", show_default=False
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of this server, other than localhost and addresses. *: any. Repeatable.",
            show_default=False,
        ),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Origin of other web pages that may connect. *: any. Repeatable.", show_default=False
        ),
    ] = None
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Certificate, for https.", show_default=False),
    ] = None
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Key of the certificate.", show_default=False),
    ] = None

    def check(self) -> None:
        """Refuse an empty API key, a certificate without its key, and a key without its certificate."""
        if self.api_key == "":  # an unset variable of the shell would open the server to all
            raise typer.BadParameter("is empty", param_hint="--api-key")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise typer.BadParameter("give both or neither", param_hint="--ssl-certfile, --ssl-keyfile")

    def http_options(self) -> dict[str, str | int]:
        """Return the options as Ray Serve takes them."""
        options: dict[str, str | int] = {"host": self.host, "port": self.port}
        if self.ssl_certfile and self.ssl_keyfile:
            # The key comes first: Ray checks the two in this order.
            options |= {"ssl_keyfile": str(self.ssl_keyfile), "ssl_certfile": str(self.ssl_certfile)}
        return options


@grouped
def serve(
    model: ModelArguments,
    streams: Annotated[Chosen[StreamingOptions], Without("language")],
    hotwords: HotwordArguments,
    long: Annotated[Chosen[DecodingOptions], Only(LONG)],
    written: WrittenArguments,
    network: NetworkArguments,
    limits: Chosen[Settings],
    replicas: ReplicaArguments,
    device: DeviceOption = "cpu",
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="Language that the model recognises (en, zh, ...). Requests for others are refused. For a model with "
            "language tokens: the only language; without this option, clients choose.",
            show_default=False,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Additional name for the model, such as whisper-1. Repeatable.", show_default=False
        ),
    ] = None,
    engines: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            metavar="N",
            help="Engines. Each recognises its share of the live sessions, with --threads of its own.",
            show_default="one per core, at most 8, for a small model on a CPU, otherwise 1",
        ),
    ] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write recognised text to the logs.")] = False,
) -> None:
    """Serve a model: a web page, WebSockets, and OpenAI's audio API.

    The page is at / (microphones need https or localhost). The WebSocket at / speaks WeNet's protocol, the one at
    /v1/realtime OpenAI's realtime transcription events. Files go to /v1/audio/transcriptions. /openapi.json describes
    the endpoints. /healthz, /readyz and /metrics are for operators. Logs are JSON lines on standard error, without
    audio and text. After SIGTERM the server takes nothing new, finishes open sessions, and ends with exit code 0.
    A model of less than 200M parameters gets one thread unless you set --threads, and as many engines as there are
    cores for them unless you set --engines. All engines share one copy of the model.

    Examples:

        unichoir serve --alias whisper-1

        unichoir serve --host 0.0.0.0 --api-key SECRET --ssl-certfile cert.pem --ssl-keyfile key.pem

        curl -F file=@recording.flac -F model=whisper-1 localhost:10086/v1/audio/transcriptions

        unichoir serve --ray auto --max-replicas 20
    """
    from unichoir.api import DEFAULT_MODEL, find_model, model_name, serving_extras

    with serving_extras("unichoir serve"):
        from unichoir.serving.server import serve as run
    network.check()
    is_endless = streams.fields["endpoint"].max_utterance is None
    refuse({"--max-utterance 0": is_endless}, "a server needs a longest utterance: its memory is limited")
    if replicas.ray is None:
        replicas.check_unused()
    else:
        refuse({"--port 0": network.port == 0, "--engines": engines}, "cannot be used with --ray")
    directory = find_model(model.model)
    languages = tuple(load_tokenizer(directory).languages)
    only = language if language and languages else None
    streaming = streams.make(language=only, hotwords=hotwords.read(), written=written.form())
    shared = {option.name: getattr(streaming, option.name) for option in declared(SearchOptions)}
    # Recordings are encoded whole in any case.
    decoding = long.make(**{**shared, "reencode": None})
    refuse_unused(decoding, model.lm)
    threads, engines = _fitting(directory, device, model.threads, 1 if replicas.ray is not None else engines)
    settings = limits.make(
        engines=engines,
        model_name=model_name(model.model),
        aliases=tuple(alias or ()),
        language=language if language is not None else ("en" if model.model in (None, DEFAULT_MODEL) else ""),
        languages=() if only else languages,
        streaming=streaming,
        decoding=decoding,
        api_key=network.api_key or "",
        allowed_hosts=tuple(name.lower() for name in (network.host, *(network.allow_host or ()))),
        allowed_origins=tuple(network.allow_origin or ()),
        log_text=log_text,
    )
    model = replace(model, threads=threads)
    if replicas.ray is not None:
        serve_on_cluster(replicas.source(model, device), settings, replicas, network.http_options())
        return
    run(
        model.load_recognizer(device),
        settings,
        host=network.host,
        port=network.port,
        ssl_certfile=network.ssl_certfile,
        ssl_keyfile=network.ssl_keyfile,
    )


def _fitting(directory: Path, device: Device, threads: int | None, engines: int | None) -> tuple[int | None, int]:
    """Return the threads of one computation and the number of engines. None: the engine's choice."""
    from unichoir.engine.onnx_backend import CONFIG_FILE, read_config

    # A directory without the file is a training checkpoint.
    is_small = (directory / CONFIG_FILE).exists() and read_config(directory).parameters < SMALL_MODEL
    if is_small:
        threads = threads or 1
    if engines is None:
        engines = min(MAX_ENGINES, max(1, num_cores() // threads)) if is_small and threads and device == "cpu" else 1
    return threads, engines
