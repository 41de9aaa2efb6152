"""`unichoir serve`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from unichoir.cli._shared.arguments import (
    DeviceOption,
    FusionArguments,
    ModelArguments,
    SearchArguments,
    WrittenArguments,
)
from unichoir.cli._shared.common import refuse
from unichoir.cli._shared.cutting import LongArguments, StreamArguments
from unichoir.cli._shared.fleet import ReplicaArguments, serve_on_cluster
from unichoir.cli._shared.grouping import grouped
from unichoir.text.tokenizer import load_tokenizer

SMALL_MODEL = 200_000_000
"""Parameters below which products are too small to be shared by threads, of which the server has several anyway
(docs/results/serving.md)."""


@dataclass(frozen=True, kw_only=True)
class NetworkArguments:
    """Where the server listens and to whom."""

    PANEL: ClassVar[str] = "Network"

    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: all.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 10086
    api_key: Annotated[
        str,
        typer.Option(
            envvar="UNICHOIR_API_KEY", metavar="KEY", help="Bearer token that clients must show.", show_default=False
        ),
    ] = ""
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name by which clients reach this server, other than localhost and addresses; *: any.",
            show_default=False,
        ),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Of other web pages that may connect; *: all.", show_default=False),
    ] = None
    ssl_certfile: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="For https.", show_default=False)
    ] = None
    ssl_keyfile: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="Its key.", show_default=False)
    ] = None

    def check(self) -> None:
        """An error of usage for half a certificate."""
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise typer.BadParameter("both are needed, or none", param_hint="--ssl-certfile, --ssl-keyfile")

    def http_options(self) -> dict[str, str | int]:
        """As Ray Serve takes them."""
        options: dict[str, str | int] = {"host": self.host, "port": self.port}
        if self.ssl_certfile and self.ssl_keyfile:
            # Its key first: Ray checks the two as they come.
            options |= {"ssl_keyfile": str(self.ssl_keyfile), "ssl_certfile": str(self.ssl_certfile)}
        return options


@dataclass(frozen=True, kw_only=True)
class LimitArguments:
    """What clients may take."""

    PANEL: ClassVar[str] = "Limits"

    max_sessions: Annotated[int, typer.Option(min=1, help="Live sessions.")] = 200
    max_batch: Annotated[int, typer.Option(min=1, help="Streams encoded together.")] = 16
    idle_timeout: Annotated[float, typer.Option(metavar="S", help="Silence of a client that ends its session.")] = 30.0
    max_session_minutes: Annotated[float, typer.Option(metavar="MIN", help="Audio of one session.")] = 120.0
    max_message_kb: Annotated[int, typer.Option(min=1, metavar="KB", help="One WebSocket message.")] = 20480
    max_upload_mb: Annotated[int, typer.Option(min=1, metavar="MB", help="One file.")] = 100
    max_audio_minutes: Annotated[float, typer.Option(metavar="MIN", help="Audio of one file.")] = 120.0
    max_waiting_uploads: Annotated[int, typer.Option(min=1, help="Files in work and waiting.")] = 8
    max_decoded_mb: Annotated[int, typer.Option(min=1, metavar="MB", help="Memory for their decoded audio.")] = 512
    max_hotwords: Annotated[int, typer.Option(min=0, help="Phrases that a client may expect; 0: none.")] = 1000
    drain_timeout: Annotated[float, typer.Option(metavar="S", help="For open sessions and files after SIGTERM.")] = 30.0

    def settings(self) -> dict[str, Any]:
        """As fields of `Settings`."""
        return {
            "max_sessions": self.max_sessions,
            "max_batch": self.max_batch,
            "max_message_bytes": self.max_message_kb << 10,
            "idle_timeout": self.idle_timeout,
            "max_session_seconds": 60 * self.max_session_minutes,
            "max_upload_bytes": self.max_upload_mb << 20,
            "max_audio_seconds": 60 * self.max_audio_minutes,
            "max_waiting_uploads": self.max_waiting_uploads,
            "max_decoded_bytes": self.max_decoded_mb << 20,
            "max_hotwords": self.max_hotwords,
            "drain_timeout": self.drain_timeout,
        }


@grouped
def serve(
    model: ModelArguments,
    streams: StreamArguments,
    search: SearchArguments,
    fusion: FusionArguments,
    long: LongArguments,
    written: WrittenArguments,
    network: NetworkArguments,
    limits: LimitArguments,
    replicas: ReplicaArguments,
    device: DeviceOption = "cpu",
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="What the model recognises (en, zh, ...): told to clients, and other requests are refused. Of several "
            "that it has tokens for the only one; else clients choose.",
            show_default=False,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name for the model, such as whisper-1.", show_default=False),
    ] = None,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write recognised text to the logs.")] = False,
) -> None:
    """Serve a model: a page to talk to, WebSockets, and OpenAI's audio API.

    The page is at / (microphones need https or localhost). A WebSocket at / speaks WeNet's protocol, one at
    /v1/realtime OpenAI's realtime transcription events; files go to /v1/audio/transcriptions. /healthz, /readyz and
    /metrics are for operators. Logs are JSON lines on standard error, without audio and without text. SIGTERM takes
    nothing new, lets open sessions have their last result and ends with exit code 0. Models of less than 200M
    parameters compute on one thread unless --threads says otherwise.

    Examples:

        unichoir serve --alias whisper-1

        unichoir serve --host 0.0.0.0 --api-key SECRET --ssl-certfile cert.pem --ssl-keyfile key.pem

        curl -F file=@recording.flac -F model=whisper-1 localhost:10086/v1/audio/transcriptions

        unichoir serve --ray auto --max-replicas 20
    """
    from unichoir.api import DEFAULT_MODEL, find_model, model_name, serving_extras

    with serving_extras("unichoir serve"):
        from unichoir.serving.server import serve as run
        from unichoir.serving.settings import Settings
    network.check()
    refuse({"--max-utterance 0": streams.max_utterance == 0}, "a server's memory has a limit, and so have utterances")
    if replicas.ray is None:
        replicas.check_unused()
    else:
        refuse({"--port 0": network.port == 0}, "has no place with --ray")
    directory = find_model(model.model)
    languages = tuple(load_tokenizer(directory).languages)
    only = language if language and languages else None
    common = {"language": only, **written.fields(), **fusion.fields(model.lm)}
    settings = Settings(
        model_name=model_name(model.model),
        aliases=tuple(alias or ()),
        language=language if language is not None else ("en" if model.model in (None, DEFAULT_MODEL) else ""),
        languages=() if only else languages,
        streaming=streams.streaming_options(search, **common),
        decoding=search.decoding_options(mode=streams.decoding, **common, **long.fields()),
        api_key=network.api_key,
        allowed_hosts=tuple(name.lower() for name in (network.host, *(network.allow_host or ()))),
        allowed_origins=tuple(network.allow_origin or ()),
        log_text=log_text,
        **limits.settings(),
    )
    model = replace(model, threads=model.threads or _fitting_threads(directory))
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


def _fitting_threads(directory: Path) -> int | None:
    """None: the engine's choice."""
    from unichoir.engine.onnx_backend import CONFIG_FILE, read_config

    if not (directory / CONFIG_FILE).exists():  # a checkpoint of training
        return None
    return 1 if read_config(directory).parameters < SMALL_MODEL else None
