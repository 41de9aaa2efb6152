"""`unichoir serve --ray` from start to end."""

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.fleet.helpers import free_port, read_clip, replicas
from tests.samples import CLIPS, WITH_SMALL_MODEL
from tests.serving.harness import PATIENCE, wenet_client

from unichoir.errors import ConfigError, UnichoirError
from unichoir.fleet.serve import Scaling, deploy, make_application
from unichoir.fleet.worker import ModelSource
from unichoir.serving.settings import Settings


def test_a_model_that_cannot_be_loaded(cluster: str) -> None:
    settings, scaling = Settings(model_name="missing"), Scaling()
    application = make_application(ModelSource("missing", 1), settings, scaling)
    with pytest.raises(UnichoirError, match=r"cannot start: .*missing: neither a model directory nor an included"):
        deploy(application, {"host": "127.0.0.1", "port": free_port()})


def test_the_command_ends_with_the_last_results(cluster: str) -> None:
    port = free_port()
    scaling = ["--max-replicas", "2", "--sessions-per-replica", "5"]
    command = ["serve", *WITH_SMALL_MODEL, "--ray", cluster, "--port", str(port), *scaling]
    server = subprocess.Popen([sys.executable, "-m", "unichoir", *command], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        if line.startswith("{") and json.loads(line)["event"] == "listening":
            break
    clip = read_clip(CLIPS[0])

    async def speak_to_the_end() -> tuple[list[str], int | None]:
        async with wenet_client(f"ws://127.0.0.1:{port}") as client:
            await client.start()
            await client.play(clip)
            server.send_signal(signal.SIGTERM)
            texts = await client.listen()
            await client.socket.wait_closed()
            return texts, client.socket.close_code

    assert asyncio.run(speak_to_the_end()) == (["SIX OH FOUR FIVE NINE ONE TWO"], 1001)
    _, err = server.communicate(timeout=PATIENCE)
    assert server.returncode == 0
    assert json.loads(err.splitlines()[-1])["event"] == "stopped"
    assert not replicas()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-replicas", "2"], "--min-replicas: needs --ray"),
        (["--max-replicas", "2"], "--max-replicas: needs --ray"),
        (["--sessions-per-replica", "2"], "--sessions-per-replica: needs --ray"),
        (["--ray", "auto", "--port", "0"], "--port 0: cannot be used with --ray"),
        (["--ray", "auto", "--engines", "2"], "--engines: cannot be used with --ray"),
    ],
)
def test_usage_errors(run_command: Any, arguments: list[str], message: str) -> None:
    code, _, err = run_command("serve", *arguments)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())


def test_scaling_is_checked() -> None:
    with pytest.raises(ConfigError, match="maximum of at least 3"):
        Scaling(min_replicas=3, max_replicas=2)
    with pytest.raises(ConfigError, match="sessions_per_replica"):
        Scaling(sessions_per_replica=0)
