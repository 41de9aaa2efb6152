"""How evenly a model used its experts: needs torch, because only the torch engine counts."""

from collections.abc import Mapping

from unichoir.decoding.backend import Backend
from unichoir.errors import DecodingError
from unichoir.model.load import LayerLoad


def expert_load(backend: Backend) -> Mapping[str, LayerLoad]:
    """The load of each layer since the model was loaded, by layer name.

    Raises DecodingError when the backend is not a torch model with experts.
    """
    from unichoir.export.torch_backend import TorchBackend
    from unichoir.model import moe

    loads = moe.expert_load(backend.model) if isinstance(backend, TorchBackend) else {}
    if not loads:
        raise DecodingError("expert load: only torch checkpoints with a Mixture of Experts report it")
    return {name: LayerLoad(frames=tuple(load.tolist())) for name, load in loads.items()}
