"""The tutorial works as it stands, on a folder of five recordings with the small sizes that the page gives."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from tests.samples import REFERENCES, SPOKEN

PAGE = Path(__file__).resolve().parents[2] / "docs" / "training" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_commands(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the page uses curl")
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for line in map(json.loads, REFERENCES.read_text(encoding="utf-8").splitlines()):
        shutil.copy(SPOKEN / line["wav"], recordings)
        (recordings / f"{line['key']}.txt").write_text(line["txt"], encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    script, server = [], ""
    for language, title, code in BLOCK.findall(PAGE.read_text(encoding="utf-8").replace("10086", port)):
        if language != "bash":
            (tmp_path / title).write_text(code, encoding="utf-8")
        elif title == "The server":
            server = code
        elif title != "A real training":
            script.append(code)
    *before, request = script

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    shell = ["bash", "-euo", "pipefail", "-c"]
    run = partial(subprocess.run, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False)
    done = run([*shell, "".join(before)])
    assert done.returncode == 0, done.stdout + done.stderr
    for made in ("exp/run/average/model.safetensors", "exp/run/training.png", "my-model/encoder.onnx"):
        assert (tmp_path / made).is_file()

    with subprocess.Popen(
        [*shell, f"exec {server}"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            assert any('"listening"' in line for line in process.stderr)
            answer = run([*shell, request])
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()
    assert "text" in json.loads(answer.stdout), answer.stderr
    assert process.returncode == 0
