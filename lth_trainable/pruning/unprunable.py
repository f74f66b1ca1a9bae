"""Why a parameter is not pruned, from its module. Layers that could be pruned are the subject of `layers`."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import ParametrizationList

from lth_trainable.errors import bad_value

SMALL = "biases and norms"  # the reason of all parameters that nobody prunes
SHARED = "shares its weight with"
_NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def why_not(module: nn.Module, name: str, parameter: nn.Parameter) -> str:
    """The reason why the parameter `name` of a module is not pruned, if it is not the weight of a prunable layer."""
    if isinstance(module, ParametrizationList):
        by = ", ".join(type(each).__name__.strip("_") for each in module)
        return f"a weight is computed from it (parametrization: {by})"
    kind, _, part = name.rpartition("_")
    if part == "orig" and hasattr(module, f"{kind}_mask"):
        return f"pruned by torch; torch.nn.utils.prune.remove(layer, {kind!r}) makes it a weight again"
    if (part in ("g", "v") and hasattr(module, f"{kind}_g")) or (part == "orig" and hasattr(module, f"{kind}_u")):
        return f"a {kind} is computed from it ({'spectral_norm' if part == 'orig' else 'weight_norm'})"
    if parameter.ndim < 2 or "bias" in name or isinstance(module, _NORMS):
        return SMALL
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent weights"
    if isinstance(module, nn.MultiheadAttention):
        return "query, key and value weights of attention, in one parameter"
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "an embedding"
    return "not the weight of a convolution or linear layer"


def refuse_lazy(model: nn.Module) -> None:
    """Raise `UserError` for layers whose weights have no shape before data has passed through them."""
    lazy = [name for name, parameter in model.named_parameters() if isinstance(parameter, UninitializedParameter)]
    if lazy:
        raise bad_value(
            "network", f"weights without a shape ({', '.join(lazy)})", "a network through which data has passed",
            "call learn.model(learn.dls.one_batch()[0]) first",
        )  # fmt: skip
