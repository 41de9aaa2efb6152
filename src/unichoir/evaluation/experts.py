"""How evenly a model uses its experts. Needs torch, because only the torch engine counts frames per expert."""

from collections.abc import Mapping

from unichoir.data.manifest import Utterance
from unichoir.engine.backend import Backend
from unichoir.errors import DecodingError
from unichoir.network.load import LayerLoad


def expert_load(backend: Backend) -> Mapping[str, LayerLoad]:
    """Return the load of each layer since the model was loaded, by layer name.

    Raises DecodingError if the backend is not a torch model with experts.
    """
    from unichoir.engine.torch_backend import TorchBackend
    from unichoir.network import moe

    loads = moe.expert_load(backend.model) if isinstance(backend, TorchBackend) else {}
    if not loads:
        raise DecodingError("expert load: only available for torch checkpoints with a Mixture of Experts")
    return {name: LayerLoad(frames=tuple(load.tolist())) for name, load in loads.items()}


class ExpertsByLanguage:
    """An observer for `evaluate` that counts the load of the experts for each language.

    `loads` maps each language to the load of each layer, by layer name. Raises DecodingError as `expert_load` does.
    """

    def __init__(self, backend: Backend) -> None:
        self.loads: dict[str, dict[str, LayerLoad]] = {}
        self._backend = backend
        self._before = expert_load(backend)

    def __call__(self, utterance: Utterance) -> None:
        """Attribute everything computed since the last call to this utterance."""
        after = expert_load(self._backend)
        language = self.loads.setdefault(utterance.lang, {})
        for name, load in after.items():
            known = language[name].frames if name in language else (0,) * len(load.frames)
            parts = zip(known, load.frames, self._before[name].frames, strict=True)
            language[name] = LayerLoad(frames=tuple(total + now - then for total, now, then in parts))
        self._before = after
