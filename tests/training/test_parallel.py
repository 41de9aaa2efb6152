"""One process learns what several learn, however the model is spread over them; and what they hold is put together
again by any other number of them."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
from tests.training.processes import run_processes
from torch import nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from unichoir.configuration import to_mapping
from unichoir.errors import ConfigError
from unichoir.network.asr_model import AsrModel
from unichoir.network.checkpoint import save_checkpoint
from unichoir.network.masks import ChunkMask
from unichoir.stopping import StopRequest
from unichoir.text.tokenizer import load_tokenizer
from unichoir.training.config import ExperimentConfig, experiment_from_mapping
from unichoir.training.feeding import BatchRequest, Position, load, requests, updates
from unichoir.training.parallel import Layout, ParallelConfig, Spread
from unichoir.training.setup import fit_vocabulary, prepare
from unichoir.training.trainer import train
from unichoir.training.validation import to_device
from unichoir.training.world import World

Experiment = Callable[..., ExperimentConfig]
Layouts = Mapping[str, Mapping[str, Any]]

TWO: Layouts = {
    "ddp": {"shard": 1},
    "fsdp": {"shard": 0},
    "experts": {"expert_parallel": 2},
    "fsdp-experts-checkpointing": {"shard": 0, "expert_parallel": 2, "activation_checkpointing": True},
}
FOUR: Layouts = {
    "ddp-experts": {"shard": 1, "expert_parallel": 2, "activation_checkpointing": True},
    "fsdp-experts": {"shard": 0, "expert_parallel": 2},
    "hybrid-experts": {"shard": 2, "expert_parallel": 2},
}


class StopAt(StopRequest):
    """Requests a stop after so many updates; it is checked once before each."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.looks = updates + 1

    def __bool__(self) -> bool:
        self.looks -= 1
        if self.looks <= 0:
            self.reason = "test"
        return self.reason is not None


def train_all(content: dict[str, Any], corpus: Path, output: Path, layouts: Layouts, stop_at: int | None) -> None:
    """Train one run after another, in folders named after the layouts."""
    with pytest.MonkeyPatch.context() as patch:
        # As in conftest.py, here in other processes.
        patch.setattr("unichoir.training.trainer.plot_training", lambda folder: folder / "training.png")
        for name, parallel in layouts.items():
            config = experiment_from_mapping({**content, "parallel": dict(parallel)}, "experiment")
            stop = None if stop_at is None else StopAt(stop_at)
            train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], output / name, stop=stop)


@pytest.fixture
def content(experiment: Experiment) -> dict[str, Any]:
    """Twelve updates of up to four batches over two epochs, some of the last ones fewer; dropout on, except within
    experts, whose rows several processes mix. The optimizer's eps is above the noise of sums in another order. A block
    of the encoder and one of each decoder are spread by themselves."""
    config = experiment(
        data={"max_frames_in_batch": 100, "length_jitter": 0.0},
        trainer={"max_epochs": 2, "accumulate": 4, "log_every": 1, "average_best": 2},
        optim={"learning_rate": 0.003, "eps": 1e-4, "grad_clip": 1.0},
    )
    experts = {"hidden_dim": 16, "num_experts": 8, "top_k": 2}
    encoder = replace(config.model.encoder, num_blocks=1, hidden_dropout=0.0)
    decoder = replace(config.model.decoder, hidden_dropout=0.0)
    mapping = to_mapping(replace(config, model=replace(config.model, encoder=encoder, decoder=decoder)))
    for part in ("encoder", "decoder"):
        mapping["model"][part]["feed_forward"].update(experts)
    return mapping


def events(path: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def losses(folder: Path) -> dict[int, float]:
    """TensorBoard orders the files of a run by the second in which they begin, then by process: those of two parts that
    begin within one second may change places. So each file is read by itself."""
    accumulators = [events(file) for file in (folder / "tensorboard").iterdir()]
    return {event.step: event.value for accumulator in accumulators for event in accumulator.Scalars("train/loss")}


def assert_same(ours: Path, reference: Path) -> None:
    """Losses of every update, and the weights at the ends of epochs and of the average, within 1e-5."""
    expected = losses(reference)
    assert len(expected) > 5
    assert losses(ours).keys() == expected.keys()
    for step, loss in losses(ours).items():
        assert loss == pytest.approx(expected[step], rel=1e-5), step
    checkpoints = sorted(path.parent.name for path in reference.glob("*/model.safetensors"))
    assert len(checkpoints) == 3
    for name in checkpoints:
        weights = load_file(reference / name / "model.safetensors")
        for key, tensor in load_file(ours / name / "model.safetensors").items():
            torch.testing.assert_close(tensor, weights[key], rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.slow
def test_every_layout_learns_what_one_process_learns(content: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    """From words and from a teacher."""
    tokenizer = load_tokenizer(content["tokenizer"])
    tokenizer.save(tmp_path / "teacher")
    torch.manual_seed(5)
    model = AsrModel(fit_vocabulary(experiment_from_mapping(content, "experiment").model, tokenizer))
    save_checkpoint(tmp_path / "teacher", model, {"fbank": content["fbank"]})
    content["teacher"] = {"checkpoint": str(tmp_path / "teacher"), "weight": 1.0}
    train_all(content, corpus, tmp_path, {"one": {}, "checkpointing": {"activation_checkpointing": True}}, None)
    run_processes(2, tmp_path, train_all, content, corpus, tmp_path, TWO, None)
    run_processes(4, tmp_path, train_all, content, corpus, tmp_path, FOUR, None)
    for name in ("checkpointing", *TWO, *FOUR):
        assert_same(tmp_path / name, tmp_path / "one")


@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own code
@pytest.mark.slow
def test_compiled_blocks_compute_the_same(
    content: dict[str, Any], corpus: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under several lengths, with empty experts; without dropout, for which the compiler draws numbers of its own.
    Traced and differentiated as always, but not turned into C++, which takes a minute."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    none = {"dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    for part in ("encoder", "decoder"):
        content["model"][part].update(none, num_blocks=1)
    content["model"]["decoder"].update(num_blocks=0, num_reverse_blocks=0)
    content["model"]["reverse_weight"] = 0.0
    config = experiment_from_mapping(content, "experiment")
    setup = prepare(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
    torch.manual_seed(0)
    plain = AsrModel(setup.config.model)
    compiled = copy.deepcopy(plain)
    spread = Spread(compiled, ParallelConfig(compile=True), world)
    batches = [item.batch for item in load(setup.train, requests(setup.corpus, setup.train.reader, Position()), 0)]
    assert len({batch.feats.shape for batch in batches if batch is not None}) > 1
    for batch in batches[:2]:
        assert batch is not None
        inputs = to_device(batch, world.device)
        for model in (plain, spread):
            model(*inputs, ChunkMask(3)).loss.backward()
    for (name, parameter), (_, ours) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(ours.grad, parameter.grad, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes_spread_otherwise(
    content: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    """Four processes stop within an epoch, two go on and stop, one ends: as if one had done it all. With the options of
    experts that have a state of their own, or parameters that many layers share."""
    options = {"balance_rate": 0.01, "shared_hidden_dim": 8, "shared_router": True}
    for part in ("encoder", "decoder"):
        content["model"][part]["feed_forward"].update(options)
    content["model"]["dynamic_top_k"] = True
    train_all(content, corpus, tmp_path, {"whole": {}}, None)
    four = {"run": {"shard": 0, "expert_parallel": 2}}
    run_processes(4, tmp_path, train_all, content, corpus, tmp_path, four, 3)
    assert not (tmp_path / "run" / "average").exists()
    run_processes(2, tmp_path, train_all, content, corpus, tmp_path, {"run": {"shard": 1}}, 3)
    assert 3 < max(losses(tmp_path / "run")) < max(losses(tmp_path / "whole"))
    train_all(content, corpus, tmp_path, {"run": {}}, None)
    assert_same(tmp_path / "run", tmp_path / "whole")
    log = (tmp_path / "run" / "train.log").read_text()
    assert "4 processes, 4 batches per update; parameters spread over 4, experts over 2" in log
    assert "2 processes, 4 batches per update" in log


def test_the_comparison_covers_idle_experts_and_processes(
    content: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    """In the run that others are compared with there are updates in which a layer leaves experts without any frame,
    and updates of fewer batches than four processes."""
    train_all(content, corpus, tmp_path, {"one": {}}, None)
    log = events(tmp_path / "one" / "tensorboard")
    loads = [
        tensor_util.make_ndarray(event.tensor_proto) for tag in log.Tags()["tensors"] for event in log.Tensors(tag)
    ]
    assert any((load == 0).any() for load in loads)
    per_epoch = [len(list(group)) for group in updates_of(content, corpus)]
    assert 4 in per_epoch
    assert min(per_epoch) < 4


def updates_of(content: dict[str, Any], corpus: Path) -> Iterator[list[BatchRequest]]:
    config = experiment_from_mapping(content, "experiment")
    setup = prepare(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
    return updates(requests(setup.corpus, setup.train.reader, Position()), config.trainer.accumulate)


@pytest.mark.slow
def test_bf16_computes_on_weights_and_moments_in_fp32(content: dict[str, Any], corpus: Path, tmp_path: Path) -> None:
    content["trainer"].update(precision="bf16", max_steps=2)
    train_all(content, corpus, tmp_path, {"one": {}}, None)
    spread = {"spread": {"shard": 0, "expert_parallel": 2}}
    run_processes(2, tmp_path, train_all, content, corpus, tmp_path, spread, None)
    expected = losses(tmp_path / "one")
    assert losses(tmp_path / "spread") == {step: pytest.approx(loss, rel=0.01) for step, loss in expected.items()}
    (state,) = (tmp_path / "spread" / "state").iterdir()
    dcp_to_torch_save(state, tmp_path / "state.pt")
    tensors = torch.load(tmp_path / "state.pt")
    moments = [tensor for entry in tensors["optimizer"].values() for tensor in entry.values()]
    assert len(moments) > 100
    assert {tensor.dtype for tensor in [*tensors["model"].values(), *moments]} == {torch.float32}


def test_a_decoder_that_no_loss_reaches_keeps_nobody_waiting(
    content: dict[str, Any], corpus: Path, tmp_path: Path
) -> None:
    content["model"]["reverse_weight"] = 0.0
    content["trainer"]["max_steps"] = 2
    layouts = {"ddp": {"shard": 1}, "fsdp": {"shard": 0}}
    run_processes(2, tmp_path, train_all, content, corpus, tmp_path, layouts, None)
    assert losses(tmp_path / "ddp") == {step: pytest.approx(loss) for step, loss in losses(tmp_path / "fsdp").items()}


def test_layouts_that_do_not_fit_are_refused() -> None:
    for size, config, message in (
        (6, ParallelConfig(shard=4), "parallel.shard 4 does not divide the number of processes"),
        (6, ParallelConfig(expert_parallel=4), "parallel.expert_parallel 4 does not divide"),
        (8, ParallelConfig(shard=2, expert_parallel=4), "shard 2 is not a multiple of parallel.expert_parallel 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            Layout.of(config, size)
    assert Layout.of(ParallelConfig(shard=0, expert_parallel=2), 8).expert_shard == 4
    for wrong in ({"shard": -1}, {"expert_parallel": 0}):
        with pytest.raises(ConfigError):
            ParallelConfig(**wrong)
