"""The ONNX Runtime engine, and the model directory that it loads."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnxruntime
from onnxruntime import InferenceSession

from unichoir import native
from unichoir.audio.fbank import FbankConfig
from unichoir.bundle.sums import check_sums
from unichoir.configuration import check_ranges, from_mapping
from unichoir.engine.backend import Floats, Ints, ModelInfo
from unichoir.engine.device import Device, num_cores
from unichoir.engine.tree_decoder import DecoderStep, TreeDecoder, check_top_k, zero_padding
from unichoir.errors import CheckpointError, ConfigError, DecodingError
from unichoir.saturation import saturates

FORMAT_VERSION = 3
CONFIG_FILE = "config.json"
ENCODER_FILE, CTC_FILE = "encoder.onnx", "ctc.onnx"
DECODER_FILE, REVERSE_DECODER_FILE = "decoder.onnx", "reverse_decoder.onnx"
MEMORY_FILE, REVERSE_MEMORY_FILE = "decoder_memory.onnx", "reverse_decoder_memory.onnx"
"""Each decoder is two graphs: one runs once per utterance, the other for each step of tokens."""

ENCODER_INPUTS = ("feats", "feats_lengths")
STATE_INPUTS = ("att_cache", "cnn_cache", "att_cache_lens", "offset")
"""The first two exist once for each encoder block that has them, with a number as suffix."""
KEPT_INPUT = "kept"
"""Input of an encoder with a state: which of the visible frames the next state keeps."""
CTC_INPUTS = ("encoder_out",)
MEMORY_INPUTS = ("encoder_out",)
MEMORY_OUTPUTS = ("keys", "values")
"""These exist once for each decoder block, with a number as suffix, and are inputs of the steps."""
DECODER_INPUTS = ("tokens", "positions", "visible", "past")
TOP_K_INPUT = "top_k"
"""The last input of an encoder or decoder with experts."""
SLOW_OPTIMIZERS = ["SkipLayerNormFusion"]
"""Graph optimisers of ONNX Runtime whose operators are slower on CPUs than those that they replace."""
CUDA_PROVIDER = "CUDAExecutionProvider"
CUDA_OPTIONS = {
    # By default cuDNN tries all its algorithms for each new shape, and the shapes of speech do not repeat.
    "cudnn_conv_algo_search": "HEURISTIC",
    # Multiply in float32 as on CPUs, not with the 10-bit mantissas of TF32.
    "use_tf32": "0",
}


@dataclass(frozen=True, kw_only=True)
class ModelDirectoryConfig:
    """`config.json` of a model directory."""

    format_version: int
    model: ModelInfo
    fbank: FbankConfig
    streaming: bool
    """Whether the encoder can work chunk by chunk; if not, its graph has no state."""
    weights: Literal["float32", "float16", "int8"]
    """How the weights are stored. int8 weights are multiplied as int8, all others as float32."""
    parameters: int
    num_blocks: int
    """Number of encoder blocks, including those on top."""
    num_convolutions: int | None = None
    """Number of encoder blocks with a convolution; None: all."""
    num_top_blocks: int = 0
    """Number of blocks on top, each frame of which is merged from two frames of the blocks below."""

    def __post_init__(self) -> None:
        blocks = (0, 1000)
        check_ranges(self, parameters=(0, 1e15), num_blocks=blocks, num_convolutions=blocks, num_top_blocks=blocks)

    @property
    def state_inputs(self) -> list[str]:
        """Names of the tensors of a state."""
        convolutions = self.num_blocks if self.num_convolutions is None else self.num_convolutions
        return state_inputs(self.num_blocks, convolutions)


@dataclass(frozen=True)
class OnnxState:
    """The `network.encoder.EncoderState` in numpy, with the same shapes and meaning."""

    att_cache: Sequence[Floats]
    cnn_cache: Sequence[Floats]
    att_cache_lens: Ints
    offset: Ints

    @property
    def num_past(self) -> int:
        """Number of places for past frames."""
        return int(self.att_cache[-1].shape[2])

    @property
    def tensors(self) -> list[Floats | Ints]:
        """All tensors in the order of the graph's inputs; each has one row per stream."""
        return [*self.att_cache, *self.cnn_cache, self.att_cache_lens, self.offset]

    def named(self) -> dict[str, Floats | Ints]:
        """Return the tensors by the names of the graph's inputs."""
        names = state_inputs(len(self.att_cache), len(self.cnn_cache))
        return dict(zip(names, self.tensors, strict=True))

    @classmethod
    def of(cls, tensors: Sequence[Any], num_blocks: int) -> "OnnxState":
        """Build a state from `tensors` or from the graph's outputs, which have the same order."""
        return cls(tensors[:num_blocks], tensors[num_blocks:-2], tensors[-2], tensors[-1])


def state_inputs(num_blocks: int, num_convolutions: int) -> list[str]:
    """Return the names of the tensors of a state."""
    counts = zip(STATE_INPUTS[:2], (num_blocks, num_convolutions), strict=True)
    return [*(f"{name}_{number}" for name, count in counts for number in range(count)), *STATE_INPUTS[2:]]


class _Decoder(NamedTuple):
    """The two graphs of a decoder."""

    memory: InferenceSession
    names: Sequence[str]
    """Names of the outputs of `memory`, which are inputs of `steps`."""
    steps: InferenceSession


class OnnxBackend:
    """A `Backend` for a model directory. Calls from several threads are safe.

    num_threads: threads of one call; None: one per core, at most 8. top_k: experts per frame, if fewer than in
    training. Raises CheckpointError for a directory that is incomplete, damaged or of another release, ConfigError for
    a malformed config.json, DecodingError for a top_k that the model does not support and for a device on which the
    model or this machine cannot compute.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        num_threads: int | None = None,
        top_k: int | None = None,
        device: Device = "cpu",
    ) -> None:
        self.directory = Path(directory)
        self.config = read_config(self.directory)
        check_sums(self.directory)
        self.info = self.config.model
        check_top_k(top_k, self.info)
        if device == "cuda":
            _prepare_cuda(self.directory, self.config)
        options = _session_options(num_threads)
        load = partial(_load, options=options, device=device)
        streaming = (*self.config.state_inputs, KEPT_INPUT) if self.config.streaming else ()
        experts = (TOP_K_INPUT,) if self.info.top_k else ()
        self._top_k = {name: np.array([top_k or self.info.top_k], np.int64) for name in experts}
        # ONNX Runtime loads a graph on one core, so several are loaded at a time. For a GPU this was never tried.
        with ThreadPoolExecutor(1 if device == "cuda" else options.intra_op_num_threads) as pool:
            encoder = pool.submit(load, self.directory / ENCODER_FILE, (*ENCODER_INPUTS, *streaming, *experts))
            ctc = pool.submit(load, self.directory / CTC_FILE, CTC_INPUTS)
            decoders = {False: pool.submit(self._load_decoder, load, MEMORY_FILE, DECODER_FILE, experts)}
            if self.info.has_reverse_decoder:
                files = (REVERSE_MEMORY_FILE, REVERSE_DECODER_FILE)
                decoders[True] = pool.submit(self._load_decoder, load, *files, experts)
            self._encoder, self._ctc = encoder.result(), ctc.result()
            self._decoders = {reverse: decoder.result() for reverse, decoder in decoders.items()}

    def _load_decoder(
        self, load: Callable[..., InferenceSession], memory: str, steps: str, experts: Sequence[str]
    ) -> _Decoder:
        """Load both graphs of a decoder."""
        read = load(self.directory / memory, MEMORY_INPUTS)
        names = [each.name for each in read.get_outputs()]
        return _Decoder(read, names, load(self.directory / steps, (*DECODER_INPUTS, *names, *experts)))

    def initial_state(self, batch_size: int, num_left_frames: int = 0) -> OnnxState:
        """See `Backend.initial_state`."""
        if not self.config.streaming:
            raise DecodingError("this model cannot stream: its convolution is not causal")
        config, none = self.config, np.zeros(batch_size, np.int64)
        shapes = {each.name: each.shape for each in self._encoder.get_inputs()}
        *caches, _, _ = (shapes[name] for name in config.state_inputs)
        below = config.num_blocks - config.num_top_blocks if config.num_top_blocks else 0
        att_cache = [
            np.zeros((batch_size, heads, num_left_frames * (2 if block < below else 1), width), np.float32)
            for block, (_, heads, _, width) in enumerate(caches[: config.num_blocks])
        ]
        cnn_cache = [np.zeros((batch_size, *shape[1:]), np.float32) for shape in caches[config.num_blocks :]]
        return OnnxState(att_cache, cnn_cache, none, none.copy())

    def join_states(self, states: Sequence[OnnxState]) -> OnnxState:
        """See `Backend.join_states`."""
        tensors = [np.concatenate(rows) for rows in zip(*(state.tensors for state in states), strict=True)]
        return OnnxState.of(tensors, self.config.num_blocks)

    def split_state(self, state: OnnxState) -> list[OnnxState]:
        """See `Backend.split_state`."""
        rows = range(len(state.offset))
        blocks = self.config.num_blocks
        return [OnnxState.of([tensor[row : row + 1].copy() for tensor in state.tensors], blocks) for row in rows]

    def restart_positions(self, state: OnnxState) -> OnnxState:
        """See `Backend.restart_positions`."""
        return replace(state, offset=state.att_cache_lens)

    def encode_chunk(
        self, feats: Floats, feats_lengths: Ints, state: OnnxState | None = None, num_left_frames: int = -1
    ) -> tuple[Floats, Ints, OnnxState | None]:
        """See `Backend.encode_chunk`. Raises DecodingError for a second chunk if the model cannot stream."""
        batch_size = feats.shape[0]
        if state is not None and not self.config.streaming:
            raise DecodingError("this model cannot stream: its convolution is not causal")
        if state is None and self.config.streaming:
            state = self.initial_state(batch_size)
        if feats.shape[1] <= self.info.right_context:  # too few for the subsampling's convolutions
            return np.zeros((batch_size, 0, self.info.encoder_dim), np.float32), np.zeros(batch_size, np.int64), state
        feed: dict[str, Any] = {
            "feats": zero_padding(feats, feats_lengths).astype(np.float32, copy=False),
            "feats_lengths": np.asarray(feats_lengths, np.int64),
            **self._top_k,
        }
        if state is None:
            encoder_out, lens = self._encoder.run(None, feed)
            return encoder_out, lens, None
        width = state.num_past + self.info.num_encoder_frames(feats.shape[1])
        feed |= state.named()
        feed[KEPT_INPUT] = np.arange(max(width - num_left_frames, 0) if num_left_frames >= 0 else 0, width)
        encoder_out, lens, *following = self._encoder.run(None, feed)
        return encoder_out, lens, OnnxState.of(following, self.config.num_blocks)

    def ctc_log_probs(self, encoder_out: Floats) -> Floats:
        """See `Backend.ctc_log_probs`."""
        log_probs: Floats = self._ctc.run(None, {"encoder_out": encoder_out})[0]
        return log_probs

    def decoder(self, encoder_out: Floats, reverse: bool = False) -> TreeDecoder:
        """See `Backend.decoder`."""
        if reverse not in self._decoders:
            raise DecodingError("this model has no right-to-left decoder")
        decoder = self._decoders[reverse]
        memory = decoder.memory.run(None, {"encoder_out": encoder_out[None]})
        fixed = dict(zip(decoder.names, memory, strict=True)) | self._top_k

        def run(step: DecoderStep) -> tuple[Floats, Floats]:
            inputs: list[Any] = [step.tokens, step.positions, step.visible, step.past]
            feed = {name: value[None] for name, value in zip(DECODER_INPUTS, inputs, strict=True)}
            log_probs, states = decoder.steps.run(None, feed | fixed)
            return log_probs[0], states[0]

        empty = np.zeros((0, len(decoder.names) // 2, 2 * self.info.encoder_dim), np.float32)
        return TreeDecoder(run, self.info.sos_id, empty)


def load_model_directory(
    directory: str | os.PathLike[str],
    num_threads: int | None = None,
    top_k: int | None = None,
    device: Device = "cpu",
) -> tuple[OnnxBackend, ModelDirectoryConfig]:
    """Return the engine of a model directory and its configuration; raises as OnnxBackend does."""
    backend = OnnxBackend(directory, num_threads, top_k, device)
    return backend, backend.config


def read_config(directory: Path) -> ModelDirectoryConfig:
    """Read the configuration of a model directory. Raises CheckpointError and ConfigError as OnnxBackend does."""
    path = directory / CONFIG_FILE
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such model directory")
    if not path.is_file():
        raise CheckpointError(f"{directory}: not a model directory (it has no {CONFIG_FILE})")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        advice = "export it again from its checkpoint" if version < FORMAT_VERSION else "a newer release is needed"
        raise CheckpointError(f"{directory}: format version {version}, this release reads {FORMAT_VERSION}: {advice}")
    return from_mapping(ModelDirectoryConfig, content, str(path))


def _session_options(num_threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or min(8, num_cores())
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # ONNX Runtime would keep a pattern for every combination of input shapes, and the shapes of speech do not repeat.
    options.enable_mem_pattern = False
    # 1 converts weights to unsigned when they are loaded.
    options.add_session_config_entry("session.x64quantprecision", "1" if saturates() else "0")
    # Within a call, threads spin while they wait: waking them takes as long as a small product. Between calls they must
    # not spin, because the next graph has its own threads and needs the cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # New threads spin too, while their graph and others are loaded: since 1.26 for 1 ms at most, before that for 40 ms.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    if kernels := native.library():
        options.register_custom_ops_library(str(kernels))
    return options


def _prepare_cuda(directory: Path, config: ModelDirectoryConfig) -> None:
    """Load CUDA. Raise DecodingError if the model or the installed ONNX Runtime cannot use a GPU."""
    if config.weights == "int8":  # MatMulIntegerToFloat has no GPU kernel: every product would run on the CPU
        raise DecodingError(
            f"{directory}: device cuda: ONNX Runtime multiplies int8 on CPUs only; export the model in float32 or "
            "float16, or use its checkpoint"
        )
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        install = "pip uninstall onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'"
        raise DecodingError(f"device cuda: the installed ONNX Runtime computes on CPUs only: {install}")
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21; finds the libraries that pip installed
        with redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()


def _load(path: Path, inputs: Sequence[str], options: onnxruntime.SessionOptions, device: Device) -> InferenceSession:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    cuda = [(CUDA_PROVIDER, CUDA_OPTIONS)] if device == "cuda" else []
    try:
        session = InferenceSession(
            path,
            options,
            providers=[*cuda, "CPUExecutionProvider"],
            disabled_optimizers=[] if cuda else SLOW_OPTIMIZERS,
            enable_fallback=0,  # no silent fallback to the CPU
        )
    except Exception as error:  # onnxruntime raises a different type for each kind of damage
        reason = " ".join(str(error).split())[:200]
        if cuda and "CUDA" in reason:
            raise DecodingError(f"device cuda: {reason}") from None
        raise CheckpointError(f"{path}: cannot be read ({reason})") from None
    if cuda and CUDA_PROVIDER not in session.get_providers():  # ONNX Runtime drops an unusable provider silently
        raise DecodingError("device cuda: ONNX Runtime finds no GPU here, or no libraries of CUDA and cuDNN")
    found = tuple(each.name for each in session.get_inputs())
    if found != tuple(inputs):
        raise CheckpointError(f"{path}: has the inputs {', '.join(found)}, expected {', '.join(inputs)}")
    return session
