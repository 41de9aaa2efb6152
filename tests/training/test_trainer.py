import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from unichoir.bundle.card import DATA, LICENCE, MODEL, NOT_STATED, RESULTS, TRAINING, Card
from unichoir.bundle.sums import write_sums
from unichoir.configuration import to_mapping
from unichoir.data.dataset import Batch, Example, collate
from unichoir.data.manifest import Utterance
from unichoir.errors import CheckpointError, ConfigError, TrainingError
from unichoir.network.checkpoint import load_checkpoint
from unichoir.stopping import StopRequest
from unichoir.training.checkpointing import average_weights
from unichoir.training.config import ExperimentConfig
from unichoir.training.feeding import BatchRequest, Loaded, Position
from unichoir.training.learner import Learner
from unichoir.training.plot import plot_training
from unichoir.training.reporting import Reporter
from unichoir.training.setup import Setup, prepare
from unichoir.training.trainer import Trainer, train
from unichoir.training.world import World

Experiment = Callable[..., ExperimentConfig]
NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}


@pytest.fixture
def build(corpus: Path, tmp_path: Path, world: World) -> Iterator[Callable[..., Trainer]]:
    """Creates trainers that have not started, in the folder `name` of tmp_path."""
    with ExitStack() as stack:

        def make(config: ExperimentConfig, name: str = "run") -> Trainer:
            (tmp_path / name).mkdir(exist_ok=True)
            report = stack.enter_context(Reporter(tmp_path / name))
            setup = prepare(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"])
            return Trainer(setup, tmp_path / name, report, StopRequest(), world)

        yield make


def utterances_of(setup: Setup) -> list[Utterance]:
    return [utterance for window in setup.corpus.windows(0, 0) for utterance in window.utterances]


def examples(trainer: Trainer, count: int) -> list[Example]:
    setup = trainer.setup
    read = [setup.train.reader.read(utterance, 0) for utterance in utterances_of(setup)[:count]]
    return [example for example in read if isinstance(example, Example)]


def loaded(batch: Batch | None, number: int = 0) -> Loaded:
    request = BatchRequest(epoch=0, window=0, batch=number, utterances=(), after=Position(batch=number + 1))
    return Loaded(request=request, batch=batch, skipped={})


def test_accumulated_batches_equal_one_big_batch(
    experiment: Experiment, build: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Learner, "draw", lambda *_: (None, None))
    config = experiment()
    encoder, decoder = replace(config.model.encoder, **NO_DROPOUT), replace(config.model.decoder, **NO_DROPOUT)
    config = replace(config, model=replace(config.model, encoder=encoder, decoder=decoder))
    gradients = []
    for sizes in ([6], [1, 3, 2]):
        trainer = build(config)
        waiting = examples(trainer, 6)
        group = [loaded(None)]
        for size in sizes:
            group.append(loaded(collate(waiting[:size])))
            waiting = waiting[size:]
        trainer.update(group)
        gradients.append({name: p.grad for name, p in trainer.model.named_parameters()})
        assert trainer.progress.step == 1
    for name, gradient in gradients[0].items():
        assert gradient is not None
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_training_by_ctc_alone_leaves_the_decoders(experiment: Experiment, build: Callable[..., Trainer]) -> None:
    """Their experts' balance too."""
    model = to_mapping(experiment().model)
    for part in ("encoder", "decoder"):
        model[part]["feed_forward"] = {"hidden_dim": 16, "num_experts": 3, "balance_rate": 0.1, "load_loss_weight": 0.1}
    model["ctc_weight"] = 1.0
    trainer = build(experiment(model=model, optim={"rates": {"left_decoder": 0.0, "right_decoder": 0.0}}))
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert trainer.update([loaded(collate(examples(trainer, 2)))])
    moved = {name for name, tensor in trainer.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in moved} == {"encoder", "ctc"}


def test_chunks_are_drawn_as_the_configuration_says(experiment: Experiment, build: Callable[..., Trainer]) -> None:
    trainer = build(experiment(model={"chunk_probability": 1.0, "min_chunk_size": 24}))
    batch = collate(examples(trainer, 2))
    drawn = [trainer.learner.draw(loaded(batch, number).request, batch)[0] for number in range(40)]
    assert {chunk.size for chunk in drawn if chunk is not None} == {24, 25}
    assert None not in drawn


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_that_is_not_finite_names_the_batch(
    experiment: Experiment, build: Callable[..., Trainer], value: float
) -> None:
    trainer = build(experiment())
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    good, bad = collate(examples(trainer, 3)[:1]), collate(examples(trainer, 3)[1:])
    bad.feats[0, 5] = value
    with pytest.raises(TrainingError, match=r"update 1: loss is nan.*utterances: train0 train1 train2$"):
        trainer.update([loaded(good), loaded(bad)])
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_batch_that_cannot_be_used_is_not_logged(
    experiment: Experiment, build: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after an update that was logged there are no losses to tell."""
    trainer = build(experiment(trainer={"max_steps": 2, "max_epochs": None, "log_every": 1}))
    batches = [collate(examples(trainer, 2)), None, collate(examples(trainer, 3)[2:])]
    groups = [[loaded(batch, number)] for number, batch in enumerate(batches)]
    monkeypatch.setattr(trainer, "training_batches", lambda: iter(groups))
    monkeypatch.setattr(trainer, "finish", lambda: None)
    trainer.run()
    assert trainer.progress.step == 2
    lines = (trainer.output / "train.log").read_text().splitlines()
    assert [sum(f"epoch 0.00 update {step}: loss" in line for line in lines) for step in (1, 2)] == [1, 1]


def test_diverging_training_stops(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    config = experiment(optim={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(TrainingError, match="utterances: train"):
        train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path)


def test_unusable_utterances_are_named_once_and_counted(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"RIFF not audio")
    whole = (corpus / "train0.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 3])
    lines = [
        {"key": "garbage", "wav": str(tmp_path / "noise.wav"), "txt": "A"},
        {"key": "cut", "wav": str(tmp_path / "cut.wav"), "txt": "A", "duration": 0.5},
        {"key": "absent", "wav": str(tmp_path / "absent.wav"), "txt": "A"},
        {"key": "wordless", "wav": str(corpus / "train1.wav"), "txt": ""},
        {"key": "crowded", "wav": str(corpus / "train1.wav"), "txt": "AB" * 100},
    ]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    wordless_dev = {**lines[3], "key": "wordless_dev"}
    (tmp_path / "dev.jsonl").write_text(json.dumps(wordless_dev) + "\n")
    config = experiment(trainer={"max_epochs": 2})
    manifests = [corpus / "train.jsonl", tmp_path / "bad.jsonl"]
    result = train(config, manifests, [corpus / "dev.jsonl", tmp_path / "dev.jsonl"], tmp_path / "out")
    assert set(result.skipped) == {"garbage", "cut", "absent", "wordless", "crowded", "wordless_dev"}
    assert "empty" in result.skipped["wordless"]
    log = (tmp_path / "out" / "train.log").read_text()
    assert sorted(re.findall(r" skipped (\w+):", log)) == sorted(result.skipped)
    assert "6 utterances skipped" in log
    with pytest.raises(TrainingError, match="no training utterance can be used; garbage: "):
        train(config, [tmp_path / "bad.jsonl"], [corpus / "dev.jsonl"], tmp_path / "none")


@pytest.mark.slow
def test_a_whole_run_learns_and_leaves_usable_checkpoints(
    experiment: Experiment, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unichoir.training.trainer.plot_training", plot_training)
    config = experiment(
        trainer={"max_steps": 9, "max_epochs": None, "validate_every": 2, "keep_best": 3, "average_best": 2}
    )
    result = train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path)
    assert result.finished
    assert result.step == 9
    kept = sorted(path.name for path in tmp_path.glob("step-*"))
    assert kept == sorted(entry.name for entry in result.best)
    assert len(kept) == 3
    scores = [
        float(score) for score in re.findall(r"dev, update \d+: loss [\d.]+.*token errors ([\d.]+)%", log_of(tmp_path))
    ]
    assert len(scores) == 5
    assert [round(100 * entry.score, 2) for entry in result.best] == sorted(scores)[:3]
    losses = [float(loss) for loss in re.findall(r"update \d+: loss ([\d.]+) ctc", log_of(tmp_path))]
    assert losses[-1] < 0.8 * losses[0]
    model, sections = load_checkpoint(tmp_path / "average")
    assert sections["fbank"]["num_mel_bins"] == 80
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "average" / "units.txt").read_text() == (corpus / "tokenizer" / "units.txt").read_text()
    for name, tensor in average_weights([tmp_path / entry.name for entry in result.best[:2]]).items():
        assert torch.equal(model.state_dict()[name], tensor)
    card = Card.read(tmp_path / "average", "")
    entries = [json.loads(line) for line in (corpus / "train.jsonl").read_text().splitlines()]
    hours = sum(soundfile.info(corpus / entry["wav"]).duration for entry in entries) / 3600
    assert card.sections[DATA] == f"{len(entries)} utterances, {hours:.2f} hours: {corpus / 'train.jsonl'}"
    assert f"| parameters | {sum(each.numel() for each in model.parameters()) / 1e6:.1f}M" in card.sections[MODEL]
    assert card.sections[TRAINING].startswith("9 updates, ")
    measured = re.findall(r"dev, average: .*word errors ([\d.]+%)", log_of(tmp_path))[-1]
    assert f"On dev: {measured} word errors" in card.sections[TRAINING]
    assert card.sections[LICENCE] == card.sections[RESULTS] == NOT_STATED
    again = train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path)
    assert again == result


def log_of(output: Path) -> str:
    return (output / "train.log").read_text()


def test_time_budget_ends_with_an_average(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    config = experiment(trainer={"max_epochs": 1000, "max_minutes": 1e-6})
    with pytest.raises(TrainingError, match="the time limit ended training"):
        train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / "none")
    config = experiment(trainer={"max_epochs": 1000, "max_minutes": 0.01})
    result = train(config, [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / "some")
    assert result.finished
    assert 0 < result.step < 1000


def test_init_starts_from_the_weights_of_another_run(
    experiment: Experiment, build: Callable[..., Trainer], corpus: Path, tmp_path: Path
) -> None:
    train(experiment(trainer={"max_epochs": 1}), [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / "first")
    directory = tmp_path / "first" / "average"
    trainer = build(experiment(init=str(directory)))
    for name, tensor in load_checkpoint(directory)[0].state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor)
    config = experiment(init=str(directory))
    narrow = replace(config.model.encoder, feed_forward=replace(config.model.encoder.feed_forward, hidden_dim=8))
    with pytest.raises(CheckpointError, match="has shape"):
        build(replace(config, model=replace(config.model, encoder=narrow)))
    units = (directory / "units.txt").read_text()
    (directory / "units.txt").write_text(units.replace("A 3", "Q 3"))
    with pytest.raises(CheckpointError, match=r"units\.txt: truncated, damaged or changed"):
        build(experiment(init=str(directory)))
    write_sums(directory)
    with pytest.raises(ConfigError, match="init: token 3 is 'Q'"):
        build(experiment(init=str(directory)))


def test_init_encoder_starts_from_an_encoder_whatever_the_vocabulary(
    experiment: Experiment, build: Callable[..., Trainer], corpus: Path, tmp_path: Path
) -> None:
    train(experiment(trainer={"max_epochs": 1}), [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path / "first")
    directory = tmp_path / "first" / "average"
    tokenizer = tmp_path / "vocabulary"
    shutil.copytree(experiment().tokenizer, tokenizer)
    units = (tokenizer / "units.txt").read_text().splitlines()
    (tokenizer / "units.txt").write_text("\n".join([*units, f"Z {len(units)}"]) + "\n")
    config = replace(experiment(init_encoder=str(directory)), tokenizer=str(tokenizer))
    trainer, fresh = build(config), build(replace(config, init_encoder=None))
    loaded, drawn = load_checkpoint(directory)[0].state_dict(), fresh.model.state_dict()
    for name, tensor in trainer.model.state_dict().items():
        assert torch.equal(tensor, loaded[name] if name.startswith("encoder.") else drawn[name])
    with pytest.raises(ConfigError, match="only one"):
        experiment(init=str(directory), init_encoder=str(directory))
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        build(config)


def test_cmvn_normalises_the_training_features(
    experiment: Experiment, build: Callable[..., Trainer], tmp_path: Path
) -> None:
    trainer = build(experiment())
    features = trainer.setup.train.reader.features
    frames = np.concatenate([features.features(utterance) for utterance in utterances_of(trainer.setup)])
    np.testing.assert_allclose(trainer.model.encoder.cmvn_mean, frames.mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(trainer.model.encoder.cmvn_istd, 1 / frames.std(axis=0), rtol=1e-3)
    other = build(experiment(cmvn=str(tmp_path / "run" / "cmvn.json")), "other")
    assert torch.equal(other.model.encoder.cmvn_mean, trainer.model.encoder.cmvn_mean)


def test_wrong_inputs_are_named(experiment: Experiment, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="key 'train0' occurs twice"):
        train(experiment(), [corpus / "train.jsonl"] * 2, [corpus / "dev.jsonl"], tmp_path)
    with pytest.raises(TrainingError, match="no dev utterance in no manifest"):
        train(experiment(), [corpus / "train.jsonl"], [], tmp_path)
    with pytest.raises(ConfigError, match="vocab_size is 5, the tokenizer has 9"):
        train(experiment(model={"vocab_size": 5}), [corpus / "train.jsonl"], [corpus / "dev.jsonl"], tmp_path)
