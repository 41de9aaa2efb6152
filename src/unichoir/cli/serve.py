"""`unichoir serve`."""

from pathlib import Path
from typing import Annotated

import typer

from unichoir.cli.common import BeamSizeOption, DeviceOption, ModelOption, TopKOption, streaming_options
from unichoir.cli.fleet import FLEET, RayOption, model_source, refuse, serve_on_cluster
from unichoir.decoding.options import STREAMING_MODES, DecodingOptions, StreamingMode

LIMITS, SPEECH, NETWORK = "Limits", "Recognition", "Network"
SMALL_MODEL = 50_000_000
"""Parameters below which products are too small to be shared by threads (docs/results/serving.md)."""


def serve(
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0: all.", rich_help_panel=NETWORK)
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.", rich_help_panel=NETWORK)] = 10086,
    chunk_size: Annotated[
        int,
        typer.Option(
            min=1, max=25, metavar="N", help="Encoder frames (40 ms each) of a chunk.", rich_help_panel=SPEECH
        ),
    ] = 16,
    num_left_chunks: Annotated[
        int, typer.Option(min=0, metavar="N", help="Chunks before its own that a frame sees.", rich_help_panel=SPEECH)
    ] = 4,
    decoding: Annotated[
        StreamingMode,
        typer.Option(
            metavar="MODE",
            help=f"What gives final results: {', '.join(STREAMING_MODES)}.",
            rich_help_panel=SPEECH,
        ),
    ] = "attention_rescoring",
    beam_size: BeamSizeOption = 10,
    silence_after_speech: Annotated[
        float, typer.Option(min=0, metavar="S", help="Silence that ends an utterance; 0: off.", rich_help_panel=SPEECH)
    ] = 1.0,
    silence_before_speech: Annotated[
        float, typer.Option(min=0, metavar="S", help="The same while nothing was said; 0: off.", rich_help_panel=SPEECH)
    ] = 5.0,
    max_utterance: Annotated[
        float, typer.Option(min=1, metavar="S", help="Where longer, it is cut at a pause.", rich_help_panel=SPEECH)
    ] = 20.0,
    language: Annotated[
        str | None,
        typer.Option(
            metavar="CODE",
            help="What the model recognises (en, zh, ...): told to clients, and other requests are refused.",
            show_default=False,
            rich_help_panel=SPEECH,
        ),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name for the model, such as whisper-1.", show_default=False),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="CPU threads of the engine; else 1 for models of less than 50M parameters and up to 8 for others.",
            show_default=False,
        ),
    ] = None,
    top_k: TopKOption = None,
    device: DeviceOption = "cpu",
    max_sessions: Annotated[int, typer.Option(min=1, help="Live sessions.", rich_help_panel=LIMITS)] = 200,
    max_batch: Annotated[int, typer.Option(min=1, help="Streams encoded together.", rich_help_panel=LIMITS)] = 16,
    idle_timeout: Annotated[
        float, typer.Option(metavar="S", help="Silence of a client that ends its session.", rich_help_panel=LIMITS)
    ] = 30.0,
    max_session_minutes: Annotated[
        float, typer.Option(metavar="MIN", help="Audio of one session.", rich_help_panel=LIMITS)
    ] = 120.0,
    max_message_kb: Annotated[
        int, typer.Option(min=1, metavar="KB", help="One WebSocket message.", rich_help_panel=LIMITS)
    ] = 1024,
    max_upload_mb: Annotated[int, typer.Option(min=1, metavar="MB", help="One file.", rich_help_panel=LIMITS)] = 100,
    max_audio_minutes: Annotated[
        float, typer.Option(metavar="MIN", help="Audio of one file.", rich_help_panel=LIMITS)
    ] = 120.0,
    max_waiting_uploads: Annotated[
        int, typer.Option(min=1, help="Files in work and waiting.", rich_help_panel=LIMITS)
    ] = 8,
    api_key: Annotated[
        str,
        typer.Option(
            envvar="UNICHOIR_API_KEY",
            metavar="KEY",
            help="Bearer token that clients must show.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = "",
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Of other web pages that may connect; *: all.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    ssl_certfile: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="For https.", show_default=False, rich_help_panel=NETWORK
        ),
    ] = None,
    ssl_keyfile: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="Its key.", show_default=False, rich_help_panel=NETWORK
        ),
    ] = None,
    drain_timeout: Annotated[
        float, typer.Option(metavar="S", help="For open sessions after SIGTERM.", rich_help_panel=LIMITS)
    ] = 30.0,
    log_text: Annotated[bool, typer.Option("--log-text", help="Write recognised text to the logs.")] = False,
    ray: RayOption = None,
    min_replicas: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Servers; else 1.", show_default=False, rich_help_panel=FLEET),
    ] = None,
    max_replicas: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Servers; else as many as the cluster has processors (with --device cuda: GPUs) for.",
            show_default=False,
            rich_help_panel=FLEET,
        ),
    ] = None,
    sessions_per_replica: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Above it there will be more servers, below it fewer; else 50.",
            show_default=False,
            rich_help_panel=FLEET,
        ),
    ] = None,
    gpus_per_replica: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="With --device cuda: share of a GPU, 0.5 for two servers on each; else 1.",
            show_default=False,
            rich_help_panel=FLEET,
        ),
    ] = None,
) -> None:
    """Serve a model: a page to talk to, WebSockets, and OpenAI's audio API.

    The page is at / (microphones need https or localhost). A WebSocket at / speaks WeNet's protocol, one at
    /v1/realtime OpenAI's realtime transcription events; files go to /v1/audio/transcriptions. /healthz, /readyz and
    /metrics are for operators. Logs are JSON lines on standard error, without audio and without text. SIGTERM takes
    nothing new, lets open sessions have their last result and ends with exit code 0.

    Examples:

        unichoir serve

        unichoir serve --host 0.0.0.0 --api-key SECRET --ssl-certfile cert.pem --ssl-keyfile key.pem

        curl -F file=@recording.flac -F model=unichoir-small-en localhost:10086/v1/audio/transcriptions

        unichoir serve --ray auto --max-replicas 20
    """
    from unichoir.api import DEFAULT_MODEL, find_model, load_recognizer, serving_extras

    with serving_extras("unichoir serve"):
        from unichoir.serving.server import serve as run
        from unichoir.serving.settings import Settings
    if (ssl_certfile is None) != (ssl_keyfile is None):
        raise typer.BadParameter("both are needed, or none", param_hint="--ssl-certfile, --ssl-keyfile")
    replicas = min_replicas, max_replicas, sessions_per_replica
    if ray is None:
        names = ("--min-replicas", "--max-replicas", "--sessions-per-replica", "--gpus-per-replica")
        refuse(dict(zip(names, (*replicas, gpus_per_replica), strict=True)), "needs --ray")
    else:
        refuse({"--port 0": port == 0}, "has no place with --ray")
    streaming = streaming_options(
        chunk_size=chunk_size,
        num_left_chunks=num_left_chunks,
        mode=decoding,
        beam_size=beam_size,
        silence_after_speech=silence_after_speech,
        silence_before_speech=silence_before_speech,
        max_utterance=max_utterance,
    )
    directory = find_model(model)
    settings = Settings(
        model_name=directory.resolve().name,
        aliases=tuple(alias or ()),
        language=language if language is not None else ("en" if model in (None, DEFAULT_MODEL) else ""),
        streaming=streaming,
        decoding=DecodingOptions(mode=decoding, beam_size=beam_size),
        max_sessions=max_sessions,
        max_batch=max_batch,
        max_message_bytes=max_message_kb << 10,
        idle_timeout=idle_timeout,
        max_session_seconds=60 * max_session_minutes,
        max_upload_bytes=max_upload_mb << 20,
        max_audio_seconds=60 * max_audio_minutes,
        max_waiting_uploads=max_waiting_uploads,
        api_key=api_key,
        allowed_origins=tuple(allow_origin or ()),
        drain_timeout=drain_timeout,
        log_text=log_text,
    )
    threads = threads or _fitting_threads(directory)
    if ray is not None:
        source = model_source(model, threads, top_k, device, ("--gpus-per-replica", gpus_per_replica))
        http_options: dict[str, str | int] = {"host": host, "port": port}
        if ssl_certfile and ssl_keyfile:
            # Its key first: Ray checks the two as they come.
            http_options |= {"ssl_keyfile": str(ssl_keyfile), "ssl_certfile": str(ssl_certfile)}
        serve_on_cluster(ray, source, settings, replicas, http_options)
        return
    run(
        load_recognizer(model, threads, top_k, device),
        settings,
        host=host,
        port=port,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )


def _fitting_threads(directory: Path) -> int | None:
    """None: the engine's choice."""
    from unichoir.decoding.onnx_backend import CONFIG_FILE, read_config

    if not (directory / CONFIG_FILE).exists():  # a checkpoint of training
        return None
    return 1 if read_config(directory).parameters < SMALL_MODEL else None
