"""The exported graphs against the torch model called directly."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from tests.engine.decoders import next_token_log_probs, token_scores

from unichoir.bundle.sums import write_sums
from unichoir.engine.encoding import encode_utterance
from unichoir.engine.onnx_backend import OnnxBackend
from unichoir.engine.torch_backend import TorchBackend
from unichoir.errors import DecodingError
from unichoir.network.asr_model import AsrModel
from unichoir.network.masks import ChunkMask
from unichoir.network.router import Router

NAMES = ("rotary_moe", "top1_without_bias_float16", "whisper_moe", "conv2d8_transformer", "not_causal")
STREAMING = NAMES[:4]
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


def random_feats(model: AsrModel, lengths: list[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(lengths), max(lengths), model.config.encoder.input_dim)
    return np.random.default_rng(seed).normal(8.0, 4.0, shape).astype(np.float32), np.array(lengths)


def rate(model: AsrModel) -> int:
    return {"conv2d": model.config.encoder.subsampling, "conv1d": 4}[model.config.encoder.front]


def window_width(model: AsrModel, size: int) -> int:
    """Return the feature frames that a chunk of so many encoder frames sees."""
    return rate(model) * (size - 1) + {4: 7, 8: 15}[rate(model)]


def torch_encoder(model: AsrModel, feats: np.ndarray, length: int, chunk: ChunkMask | None = None) -> np.ndarray:
    """One utterance alone, under a chunk mask: no batch, no state."""
    with torch.no_grad():
        encoder_out, _, _ = model.encoder(torch.from_numpy(feats[None, :length]), torch.tensor([length]), chunk=chunk)
    return encoder_out[0].numpy()


@pytest.mark.parametrize("name", NAMES)
def test_whole_utterances(exports, name: str) -> None:
    model, backend = exports[name].model, exports[name].backend
    feats, lengths = random_feats(model, {4: [83, 45, 7, 10, 6, 0], 8: [83, 45, 15, 22, 14, 0]}[rate(model)])
    encoder_out, lens, _ = backend.encode_chunk(feats, lengths, None, -1)
    assert lens.tolist() == {4: [20, 10, 1, 1, 0, 0], 8: [9, 4, 1, 1, 0, 0]}[rate(model)]
    for row in range(4):
        expected = torch_encoder(model, feats[row], lengths[row])
        np.testing.assert_allclose(encoder_out[row, : lens[row]], expected, **TOLERANCE)
    # One row of one encoder frame.
    alone, _, _ = backend.encode_chunk(feats[2:3, : lengths[2]], lengths[2:3], None, -1)
    np.testing.assert_allclose(alone[0], encoder_out[2, :1], **TOLERANCE)


@pytest.mark.parametrize("num_left_chunks", [-1, 0, 2])
@pytest.mark.parametrize("name", STREAMING)
def test_streaming_equals_chunk_mask(exports, name: str, num_left_chunks: int) -> None:
    """Three streams of unequal lengths, the second of which begins two chunks after the others."""
    model, backend = exports[name].model, exports[name].backend
    size = 3
    feats, lengths = random_feats(model, [119, 70, 49], seed=1)
    hop, width = rate(model) * size, window_width(model, size)
    starts = np.array([0, 2 * hop, 0])
    state, outputs = None, [[], [], []]
    for step in range(0, 119 - window_width(model, 1) + 1, hop):
        window = np.zeros((3, width, feats.shape[2]), np.float32)
        valid = np.zeros(3, np.int64)
        for row, begin in enumerate(step - starts):
            chunk = feats[row, begin : min(begin + window.shape[1], lengths[row])] if begin >= 0 else feats[row, :0]
            window[row, : len(chunk)] = chunk
            valid[row] = len(chunk)
        encoder_out, lens, state = backend.encode_chunk(window, valid, state, num_left_chunks * size)
        for row in range(3):
            outputs[row].append(encoder_out[row, : lens[row]])
        if num_left_chunks >= 0:
            assert state.num_past <= num_left_chunks * size
            # Frames below merged ones are half as long.
            merged = [model.config.encoder.frames_merged] * model.config.encoder.num_blocks
            times = [*merged, *[1] * model.config.encoder.num_top_blocks]
            assert [cache.shape[2] for cache in state.att_cache] == [state.num_past * each for each in times]
    for row, length in enumerate(lengths):
        expected = torch_encoder(model, feats[row], length, ChunkMask(size, num_left_chunks))
        np.testing.assert_allclose(np.concatenate(outputs[row]), expected, **TOLERANCE)


def engine(exports, name: str, kind: str) -> OnnxBackend | TorchBackend:
    return exports[name].backend if kind == "onnx" else TorchBackend(exports[name].model)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("num_left_chunks", [0, 1, 4])
@pytest.mark.parametrize("name", STREAMING)
def test_streams_of_any_age_are_joined(exports, name: str, num_left_chunks: int, kind: str) -> None:
    """In each step some of four streams go on, joined in any order."""
    model, backend = exports[name].model, engine(exports, name, kind)
    size, rng = 3, np.random.default_rng(num_left_chunks)
    feats, lengths = random_feats(model, [119, 70, 49, 95], seed=1)
    states = backend.split_state(backend.initial_state(4, num_left_chunks * size))
    outputs, done = [[], [], [], []], np.zeros(4, np.int64)
    hop, width = rate(model) * size, window_width(model, size)
    while (waiting := np.flatnonzero(lengths - hop * done >= window_width(model, 1))).size:
        rows = rng.permutation(waiting)[: rng.integers(1, 4)]
        window = np.zeros((len(rows), width, feats.shape[2]), np.float32)
        starts = hop * done[rows]
        for place, (row, start) in enumerate(zip(rows, starts, strict=True)):
            chunk = feats[row, start : min(start + window.shape[1], lengths[row])]
            window[place, : len(chunk)] = chunk
        valid = np.minimum(lengths[rows] - starts, window.shape[1])
        joined = backend.join_states([states[row] for row in rows])
        encoder_out, lens, joined = backend.encode_chunk(window, valid, joined, num_left_chunks * size)
        for row, out, length, state in zip(rows, encoder_out, lens, backend.split_state(joined), strict=True):
            outputs[row].append(out[:length])
            states[row] = state
        done[rows] += 1
    for row, length in enumerate(lengths):
        expected = torch_encoder(model, feats[row], length, ChunkMask(size, num_left_chunks))
        np.testing.assert_allclose(np.concatenate(outputs[row]), expected, **TOLERANCE)


def test_a_state_has_room_where_it_is_needed(exports) -> None:
    """A Transformer block below merged frames, a Conformer block on top: two pasts of frames, one of a convolution."""
    for name in ("whisper_moe", "whisper_moe_int8"):
        backend = exports[name].backend
        state = backend.initial_state(3, 8)
        assert [cache.shape for cache in state.att_cache] == [(3, 2, 16, 24), (3, 2, 8, 24)]
        assert [cache.shape for cache in state.cnn_cache] == [(3, 4, 24)]
        assert (state.num_past, len(backend.split_state(state))) == (8, 3)
        counts = backend.config.num_blocks, backend.config.num_convolutions, backend.config.num_top_blocks
        assert counts == (2, 1, 1)


def test_a_row_of_a_state_does_not_hold_on_to_the_others(exports) -> None:
    rows = exports["rotary_moe"].backend.split_state(exports["rotary_moe"].backend.initial_state(3, 8))
    assert all(tensor.base is None and len(tensor) == 1 for row in rows for tensor in row.tensors)
    for row in TorchBackend(exports["rotary_moe"].model).split_state(
        exports["rotary_moe"].model.encoder.initial_state(3)
    ):
        for tensor in (*row.att_cache, *row.cnn_cache, row.att_cache_lens, row.offset):
            assert tensor.untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("num_past_chunks", [1, 2, 6])
def test_positions_restart_at_the_oldest_frame_in_view(exports, num_past_chunks: int, kind: str) -> None:
    """Against the encoder called once for what is in view and what is new, as if an utterance began there.

    WeNet's positions; in one block the frames in view know nothing of those before, apart from the convolution, which
    reaches four frames back.
    """
    name = "top1_without_bias_float16"
    model, backend, size, left = exports[name].model, engine(exports, name, kind), 8, 2
    assert (model.config.encoder.position, model.config.encoder.conv_kernel) == ("absolute_key", 5)
    feats, _ = random_feats(model, [4 * size * (num_past_chunks + 1) + 3], seed=4)

    def last_chunk(restart: bool) -> np.ndarray:
        state = backend.initial_state(1, left * size)
        for chunk in range(num_past_chunks + 1):
            if restart and chunk == num_past_chunks:
                state = backend.restart_positions(state)
            window = feats[:, 4 * size * chunk :][:, : 4 * (size - 1) + 7]
            encoder_out, _, state = backend.encode_chunk(window, np.array([window.shape[1]]), state, left * size)
        return encoder_out[0]

    view = feats[0, 4 * size * max(0, num_past_chunks - left) :]
    expected = torch_encoder(model, view, len(view))[-size:]
    np.testing.assert_allclose(last_chunk(restart=True)[4:], expected[4:], **TOLERANCE)
    if num_past_chunks > left:
        assert np.abs(last_chunk(restart=False)[4:] - expected[4:]).max() > 1e-3


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("name", ["rotary_moe", "dense_batch_norm_int8"])
def test_rotary_positions_have_no_start(exports, name: str, kind: str) -> None:
    backend = engine(exports, name, kind)
    feats, _ = random_feats(exports[name].model, [15, 15], seed=6)
    lengths = np.array([15, 11])
    state = backend.initial_state(2, 6)
    for _ in range(4):
        _, _, state = backend.encode_chunk(feats, lengths, state, 6)
    kept = backend.encode_chunk(feats, lengths, state, 6)[0]
    np.testing.assert_array_equal(backend.encode_chunk(feats, lengths, backend.restart_positions(state), 6)[0], kept)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_a_model_that_is_not_causal_refuses_to_stream(exports, kind: str) -> None:
    backend = engine(exports, "not_causal", kind)
    feats, lengths = random_feats(exports["not_causal"].model, [40])
    with pytest.raises(DecodingError, match="cannot stream"):
        backend.initial_state(1, 4)
    with pytest.raises(DecodingError, match="cannot stream"):
        backend.encode_chunk(feats, lengths, engine(exports, "rotary_moe", kind).initial_state(1, 0), -1)
    for num_left_chunks in (-1, 0, 2):
        with pytest.raises(DecodingError, match="cannot stream"):
            encode_utterance(backend, feats, lengths, 4, num_left_chunks)
        whole, _ = encode_utterance(backend, feats, lengths, 9, num_left_chunks)  # one chunk is no stream
        expected = torch_encoder(exports["not_causal"].model, feats[0], 40)
        np.testing.assert_allclose(whole[0], expected, **TOLERANCE)


@pytest.mark.parametrize("name", NAMES)
def test_ctc_and_decoders(exports, name: str) -> None:
    model, backend = exports[name].model, exports[name].backend
    rng = np.random.default_rng(2)
    encoder_out = rng.normal(size=(9, backend.info.encoder_dim)).astype(np.float32)
    with torch.no_grad():
        expected = model.ctc.log_probs(torch.from_numpy(encoder_out))
    np.testing.assert_allclose(backend.ctc_log_probs(encoder_out[None])[0], expected, **TOLERANCE)
    hyps = [[4, 3, 3, 9], [], [5], rng.integers(0, backend.info.vocab_size, 30).tolist()]
    for reverse in (False, True) if model.right_decoder is not None else (False,):
        scores = token_scores(backend, encoder_out, hyps, reverse)
        for hyp, found in zip(hyps, scores, strict=True):
            log_probs = torch_decoder(model, encoder_out, hyp[::-1] if reverse else hyp, reverse)
            targets = [*(hyp[::-1] if reverse else hyp), model.config.eos_id]
            np.testing.assert_allclose(found, log_probs[np.arange(len(targets)), targets], **TOLERANCE)
    prefixes = [[4, 3], [5, 9]]
    following = [torch_decoder(model, encoder_out, prefix, False)[-1] for prefix in prefixes]
    np.testing.assert_allclose(next_token_log_probs(backend, encoder_out, prefixes), following, **TOLERANCE)
    if model.right_decoder is None:
        with pytest.raises(DecodingError, match="right-to-left"):
            token_scores(backend, encoder_out, hyps, True)


def torch_decoder(model: AsrModel, encoder_out: np.ndarray, tokens: list[int], reverse: bool) -> np.ndarray:
    """Log-probabilities (U + 1, V) for one hypothesis alone."""
    decoder = model.right_decoder if reverse else model.left_decoder
    tokens_in = torch.tensor([[model.config.sos_id, *tokens]])
    with torch.no_grad():
        memory = torch.from_numpy(encoder_out)[None]
        logits = decoder(memory, torch.tensor([len(encoder_out)]), tokens_in, torch.tensor([tokens_in.shape[1]]))
    return torch.log_softmax(logits[0], dim=-1).numpy()


def test_only_chosen_experts_are_computed(exports, tmp_path: Path) -> None:
    """NaN in all weights of the experts that a frame did not choose changes nothing; in those it chose, it shows."""
    model, directory = exports["rotary_moe"].model, exports["rotary_moe"].directory
    feats, lengths = random_feats(model, [7])  # one encoder frame
    chosen: dict[str, set[int]] = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, out, name=name: chosen.update({name: set(out[1].flatten().tolist())})
        )
        for name, module in model.encoder.named_modules()
        if isinstance(module, Router)
    ]
    torch_encoder(model, feats[0], 7)
    for hook in hooks:
        hook.remove()
    assert len(chosen) == 2
    assert all(len(experts) == 2 for experts in chosen.values())
    expected = exports["rotary_moe"].backend.encode_chunk(feats, lengths, None, -1)[0]

    def encode_with_nan(spoilt: dict[str, set[int]]) -> np.ndarray:
        values = [
            array.T if array.ndim == 2 else array
            for name, experts in spoilt.items()
            for stack in model.encoder.get_submodule(name.replace("router", "experts")).parameters()
            for array in stack.detach().numpy()[sorted(experts)]
        ]
        graph = onnx.load(directory / "encoder.onnx")
        replaced = 0
        for initializer in graph.graph.initializer:
            array = onnx.numpy_helper.to_array(initializer)
            if any(array.shape == value.shape and np.array_equal(array, value) for value in values):
                nan = onnx.numpy_helper.from_array(np.full_like(array, np.nan), initializer.name)
                initializer.CopyFrom(nan)
                replaced += 1
        assert replaced == len(values)
        shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
        onnx.save(graph, tmp_path / "encoder.onnx")
        write_sums(tmp_path)
        return OnnxBackend(tmp_path, num_threads=1).encode_chunk(feats, lengths, None, -1)[0]

    unchosen = {name: set(range(5)) - experts for name, experts in chosen.items()}
    np.testing.assert_array_equal(encode_with_nan(unchosen), expected)
    assert np.isnan(encode_with_nan({next(iter(chosen)): next(iter(chosen.values()))})).all()


def test_float16_weights_are_folded_at_load(exports, tmp_path: Path) -> None:
    """Stored as float16 are the matrices and not the routers; once loaded, all weights are float32."""
    path = exports["top1_without_bias_float16"].directory / "encoder.onnx"
    half = [each for each in onnx.load(path).graph.initializer if each.data_type == onnx.TensorProto.FLOAT16]
    stacks = [each for each in half if list(each.dims) in ([24, 20], [20, 24])]
    assert len(stacks) == 2 * 2 * 3  # layers, matrices of an expert, experts
    assert [24, 3] not in [list(each.dims) for each in half]  # a router
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    loaded = onnx.load(tmp_path / "loaded.onnx").graph
    types = {each.data_type for each in loaded.initializer}
    assert onnx.TensorProto.FLOAT in types
    assert onnx.TensorProto.FLOAT16 not in types


def test_graphs_are_standard_and_tell_nothing_about_the_machine(exports) -> None:
    for path in exports["rotary_moe"].directory.glob("*.onnx"):
        graph = onnx.load(path)
        onnx.checker.check_model(graph, full_check=True)
        assert {(each.domain, each.version) for each in graph.opset_import} == {("", 18)}
        content = path.read_bytes()
        assert b".py" not in content
        assert str(Path.home()).encode() not in content
