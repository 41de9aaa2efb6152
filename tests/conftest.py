"""Fixtures shared by all tests."""

import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests.samples import SMALL_MODEL

REPOSITORY = Path(__file__).resolve().parent.parent
MADE_ONCE = "once-"
SLOWEST = (
    "training",
    "recipes",
    "serving",
    "export",
    "cli",
    "fleet",
    "recognition",
    "experiments",
    "benchmark",
    "formats",
    "network",
    "search",
    "api",
)


def pytest_configure() -> None:
    """Restore SIGINT: background jobs of a shell ignore it, and so would all processes that the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Assign whole folders to test processes (`make test`): each folder's shared fixtures are then made only once, and
    clusters don't interfere. The slowest folders come first, which keeps all processes busy until the end."""
    folders = {item: item.path.relative_to(REPOSITORY / "tests").parts[0] for item in items}
    for item, folder in folders.items():
        item.add_marker(pytest.mark.xdist_group(folder))
    items.sort(key=lambda item: SLOWEST.index(folders[item]) if folders[item] in SLOWEST else len(SLOWEST))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """pytest-xdist 3.8 silently ignores groups with pytest 9.2."""
    if getattr(session.config.option, "loadgroup", False):
        ungrouped = [item.nodeid for item in session.items if "@" not in item.nodeid.rpartition("]")[2]]
        if ungrouped:
            raise pytest.UsageError(f"{ungrouped[0]}: this pytest-xdist does not group tests with this pytest")


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The project's own small fixtures."""
    return REPOSITORY / "tests" / "fixtures"


@pytest.fixture
def limit_files() -> Iterator[Callable[[int], None]]:
    """A function that limits the size of all files to a number of bytes, as if the disk were full.

    -1 removes the limit, and so does the end of the test.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size < 0 else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `unichoir` in this process: (*arguments, stdin=b"") to (exit code, standard output, standard error)."""

    def run(*arguments: object, stdin: bytes = b"") -> tuple[int, str, str]:
        from unichoir import cli

        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["unichoir", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            cli.main()
        written = capsys.readouterr()
        return int(end.value.code or 0), written.out, written.err

    return run


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and a vocabulary of characters: it recognises letters in any audio."""
    import torch

    from unichoir.network.asr_model import AsrModel
    from unichoir.network.checkpoint import save_checkpoint
    from unichoir.network.config import DecoderConfig, EncoderConfig, FeedForwardConfig, ModelConfig
    from unichoir.text.tokenizer import CharTokenizer, build_char_units

    tokenizer = CharTokenizer(build_char_units(["ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]))
    experts = FeedForwardConfig(hidden_dim=32, num_experts=4)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        encoder=EncoderConfig(
            dim=32, num_blocks=1, num_heads=2, feed_forward=experts, conv_kernel=7, subsampling_channels=8
        ),
        decoder=DecoderConfig(num_blocks=1, num_reverse_blocks=1, num_heads=2, feed_forward=experts),
    )
    torch.manual_seed(1)
    model = AsrModel(config)
    with torch.no_grad():
        model.encoder.cmvn_mean.fill_(8.0)
        model.encoder.cmvn_istd.fill_(0.25)
        # Without its mean the encoder's output differs from frame to frame, and large weights make that decide.
        feats = 8.0 + 4.0 * torch.randn(1, 400, 80)
        encoder_out, _, _ = model.eval().encoder(feats, torch.tensor([400]))
        model.ctc.ctc_lo.weight.mul_(8.0)
        model.ctc.ctc_lo.bias.copy_(-model.ctc.ctc_lo.weight @ encoder_out[0].mean(dim=0))
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tokenizer.save(folder)
    save_checkpoint(folder, model, {"fbank": {}})
    return folder


@pytest.fixture(scope="session", autouse=True)
def _shared_models_are_read_once() -> Iterator[None]:
    """ONNX Runtime takes half a second to read the small model, and hundreds of tests load it. Graphs keep nothing from
    one call to the next, so those of models that no test changes are read once for the options that they are read
    with."""
    from unichoir.engine import onnx_backend

    load, read = onnx_backend._load, {}

    def load_once(path: Path, inputs: Sequence[str], options: Any, device: Any) -> Any:
        if device != "cpu" or not (path.parent == SMALL_MODEL or path.parent.name.startswith(MADE_ONCE)):
            return load(path, inputs, options, device)
        unsigned = options.get_session_config_entry("session.x64quantprecision")
        key = (path, *inputs, options.intra_op_num_threads, unsigned)
        if key not in read:
            read[key] = load(path, inputs, options, device)
        return read[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_backend, "_load", load_once)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function of a name and a function that writes a folder completely or not at all; returns the folder.

    The first test process writes the folder, and all processes share it; tests must not change it.
    """
    own = tmp_path_factory.getbasetemp()
    home = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = home / f"{MADE_ONCE}{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.exists():
                make(folder)
        return folder

    return made


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """`tiny_checkpoint` as an ONNX model directory, made by the command."""
    from unichoir.cli.export import export

    return made_once("tiny", partial(export, tiny_checkpoint))


@pytest.fixture(scope="session")
def model_directory(fixtures: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """The tiny WeNet checkpoint of the fixtures as an ONNX model directory."""
    from unichoir.export.onnx import export_onnx

    return made_once("wenet", partial(export_onnx, fixtures / "wenet_moe_tiny"))
