"""Run the server of `unichoir.serving` on a Ray cluster, with as many replicas as the open sessions need."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unichoir.errors import ConfigError, UnichoirError
from unichoir.fleet.worker import ModelSource

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from unichoir.serving.settings import Settings

NAME = "unichoir"
"""The name of the application on the cluster."""
OTHER_REQUESTS = 16
"""Concurrent requests to a replica apart from sessions and recordings: health, metrics, the page."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """The limits of the number of replicas. Raises ConfigError for inconsistent numbers."""

    min_replicas: int = 1
    max_replicas: int = 1
    sessions_per_replica: int = 50
    """The target for the average number of open sessions and running transcriptions per replica; less than
    `Settings.max_sessions`, at which a replica refuses more."""
    look_back: float = 15.0
    """Seconds over which that number is averaged; Ray counts every 10 s."""
    upscale_delay: float = 5.0
    """Seconds that the number must exceed the target before replicas are added."""
    downscale_delay: float = 300.0
    """Seconds that the number must stay below the target before replicas are removed."""

    def __post_init__(self) -> None:
        if not 1 <= self.min_replicas <= self.max_replicas:
            raise ConfigError(f"replicas: expected 1 or more and a maximum of at least {self.min_replicas}, "
                              f"found {self.max_replicas}")  # fmt: skip
        if self.sessions_per_replica < 1:
            raise ConfigError(f"sessions_per_replica: expected at least 1, found {self.sessions_per_replica}")


class Replica:
    """The methods of a replica besides its application: Ray Serve checks its health, `serve_until` drains it."""

    app: "FastAPI"

    def check_health(self) -> None:
        """Raise RuntimeError if the engine has stopped; Ray then replaces the replica."""
        if not self.app.state.engine.is_alive:
            raise RuntimeError("the engine has stopped")

    async def drain(self) -> None:
        """Refuse new work, and let open sessions receive their last results."""
        self.app.state.engine.drain()


class MessageLimit:
    """ASGI middleware that closes a WebSocket if a message is too long. Ray's own proxy allows up to 16 MiB."""

    def __init__(self, app: "ASGIApp", max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Check the length of each message from the client."""

        async def receive_limited() -> "Message":
            message = await receive()
            content = message.get("bytes") or (message.get("text") or "").encode()
            if message["type"] == "websocket.receive" and len(content) > self.max_bytes:
                await send({"type": "websocket.close", "code": 1009, "reason": "message too big"})
                return {"type": "websocket.disconnect", "code": 1009}
            return message

        await self.app(scope, receive_limited if scope["type"] == "websocket" else receive, send)


def make_application(source: ModelSource, settings: "Settings", scaling: Scaling) -> "Application":
    """Return the deployment for `serve.run`.

    This process must be a cluster's driver; all workers need the model and the extras.
    """
    from ray import serve

    resources: dict[str, float] = {"num_cpus": source.threads or 1}
    if source.num_gpus:
        resources["num_gpus"] = source.num_gpus

    def build() -> "FastAPI":  # runs in the replica; the application's lifespan starts and stops the engine
        from unichoir.serving.app import create_app
        from unichoir.serving.logs import configure_logs

        configure_logs()
        app = create_app(source.load(), settings)
        app.add_middleware(MessageLimit, max_bytes=settings.max_message_bytes)
        return app

    deployment = serve.deployment(
        name=NAME,
        ray_actor_options=resources,
        # The application itself refuses excess requests, in the way that its protocols prescribe.
        max_ongoing_requests=settings.max_sessions + settings.max_waiting_uploads + OTHER_REQUESTS,
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.sessions_per_replica,
            "look_back_period_s": scaling.look_back,
            "upscale_delay_s": scaling.upscale_delay,
            "downscale_delay_s": scaling.downscale_delay,
        },
        # A replica that is no longer needed keeps running for as long as a session may last.
        graceful_shutdown_timeout_s=settings.max_session_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        logging_config={"enable_access_log": False},
    )
    return deployment(serve.ingress(build)(Replica)).bind()


def deploy(application: "Application", http_options: dict[str, Any]) -> "DeploymentHandle[Any]":
    """Run the replicas behind the cluster's HTTP proxies, one on each node, and wait until the first is ready.

    http_options: those of `ray.serve.config.HTTPOptions`; ignored if the cluster already serves an application.
    Raises UnichoirError if replicas cannot start, with Ray's reason, and if the application is already running.
    """
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if NAME in serve.status().applications:
        raise UnichoirError(f"this cluster already serves an application '{NAME}'; `serve shutdown` ends it")
    serve.start(http_options=http_options)
    try:
        return serve.run(application, name=NAME, route_prefix="/")
    except RuntimeError as error:
        status = serve.status().applications.get(NAME)
        detail = (status.deployments[NAME].message if status and NAME in status.deployments else "") or str(error)
        remove(0.0)
        raise UnichoirError(f"the replicas cannot start: {detail.strip().splitlines()[-1].strip()}") from None


def serve_until(is_over: Callable[[], bool], handle: "DeploymentHandle[Any]", drain_timeout: float) -> None:
    """Wait until `is_over` returns True, then let open sessions receive their last results and remove the replicas.

    drain_timeout: the seconds that sessions get to finish.
    """
    while not is_over():
        time.sleep(POLL_SECONDS)
    handle.broadcast("drain").results(timeout_s=max(drain_timeout, 1.0))
    remove(drain_timeout)


def remove(timeout: float) -> None:
    """Remove the replicas when they are idle, or after `timeout` seconds; also stop Ray Serve if it serves nothing
    else."""
    from ray import serve

    deadline = time.monotonic() + timeout
    if NAME in serve.status().applications:
        serve.delete(NAME, _blocking=False)
    while NAME in (applications := serve.status().applications) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    if not set(applications) - {NAME}:
        serve.shutdown()  # type: ignore[no-untyped-call]
