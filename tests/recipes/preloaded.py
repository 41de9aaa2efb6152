"""The command `unichoir` for recipes, without the seconds that each start takes to import PyTorch: a server imports
what commands need once, and forks a process for each.

`python -m tests.recipes.preloaded SOCKET` is the server, which writes a line when it is ready; `write_command` writes a
command that asks it.
"""

import importlib
import json
import os
import socket
import sys
from pathlib import Path

PRELOADED = (
    "matplotlib.pyplot",
    "sentencepiece",
    "torch.utils.tensorboard",
    "unichoir.cli",
    "unichoir.evaluation.evaluate",
    "unichoir.training.plot",
    "unichoir.training.trainer",
)
COMMAND = """\
#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
request = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
server.sendall(request)
sys.exit((server.recv(1) or b"\\1")[0])
"""


def write_command(folder: Path, path: Path) -> None:
    """An executable `unichoir` in `folder` that has its work done by the server at the socket `path`."""
    command = folder / "unichoir"
    command.write_text(COMMAND.format(python=sys.executable, path=str(path)))
    command.chmod(0o755)


def serve(path: str) -> None:
    """Fork a process for each request, one after the other, and answer with its exit status."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while True:
            client, _ = listening.accept()
            with client, client.makefile("rb") as incoming:
                length, files, _, _ = socket.recv_fds(client, 4, 3)
                request = json.loads(incoming.read(int.from_bytes(length, "big")))
                child = os.fork()
                if child == 0:
                    run(*request, files)
                for file in files:
                    os.close(file)
                client.send(bytes([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF]))


def run(argv: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Do what the installed script does, and exit."""
    from unichoir.cli import main

    for number, file in enumerate(files):
        os.dup2(file, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115 - until the end
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.exit(main())  # type: ignore[func-returns-value]


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    serve(sys.argv[1])
