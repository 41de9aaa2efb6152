"""Print the tests of the files that differ from a branch, one folder or file a line, for `make quick`."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SMOKE = ("api", "search", "text", "transcript", "test_exported_members.py")
"""What is tested when no changed file has tests of its own."""


def changed_files(branch: str) -> list[str]:
    """Files committed since this branch left the other, files changed since the last commit, and new files."""
    commands = (
        ("diff", "--name-only", f"{branch}..."),
        ("diff", "--name-only", "HEAD"),
        ("ls-files", "--others", "--exclude-standard"),
    )
    outputs = [subprocess.check_output(["git", *each], cwd=TESTS.parent, text=True) for each in commands]
    return sorted({line for output in outputs for line in output.splitlines()})


def tests_of(path: str) -> str | None:
    """src/unichoir/audio/vad.py and tests/audio/test_vad.py give audio; src/unichoir/saturation.py gives
    test_saturation.py; demo/run.py gives test_demo.py."""
    parts = Path(path.removeprefix("src/unichoir/").removeprefix("tests/")).parts
    name = Path(parts[0]).stem
    candidates = (name, f"{name}.py" if name.startswith("test_") else f"test_{name}.py")
    return next((each for each in candidates if (TESTS / each).exists() and each != "fixtures"), None)


def main(branch: str) -> None:
    found = {tests_of(path) for path in changed_files(branch)} - {None}
    print("\n".join(f"tests/{name}" for name in sorted(found or SMOKE)))


if __name__ == "__main__":
    main(sys.argv[1])
