"""Runs recipes as a shell does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.recipes.preloaded import write_command

ROOT = Path(__file__).resolve().parents[2]
RunRecipe = Callable[..., str]


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for PATH with a `unichoir` that starts at once."""
    folder = tmp_path_factory.mktemp("commands")
    write_command(folder, folder / "socket")
    start = [sys.executable, "-m", "tests.recipes.preloaded", str(folder / "socket")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(start, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield folder
        server.terminate()


@pytest.fixture
def run_recipe(commands: Path, tmp_path: Path) -> RunRecipe:
    """Runs the script of a recipe in `tmp_path` with changes of its configurations: (recipe, *arguments, changes={...},
    further variables of the environment) to what it wrote."""

    def run(recipe: str, *arguments: object, changes: Mapping[str, object], **environment: str) -> str:
        settings = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            ["bash", str(ROOT / "recipes" / recipe / "run.sh"), *map(str, arguments), *settings],
            cwd=tmp_path,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run
