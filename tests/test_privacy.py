"""No data is sent without being requested."""

import os
import subprocess
import sys
from pathlib import Path

from tests.samples import CLIPS, SMALL_MODEL

RECOGNISE = """
import socket, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
import unichoir
print(unichoir.load_model(sys.argv[1]).transcribe(sys.argv[2]).text)
"""


def test_recognising_connects_to_nothing_and_writes_nothing(tmp_path: Path) -> None:
    """ONNX Runtime keeps a file of what it reports under the user's cache, unless it is told not to before it is
    imported."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))} | home
    command = [sys.executable, "-B", "-c", RECOGNISE, str(SMALL_MODEL), str(CLIPS[0])]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert list(tmp_path.rglob("*")) == []
