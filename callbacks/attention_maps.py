"""What the heads of a transformer look at, in pictures and as a number."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from lightning.pytorch import LightningModule, Trainer
from timm.models.vision_transformer import Attention as TimmAttention
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.pictures import HeldOutPictures, save_picture, show

Tokens = Sequence[Sequence[str]]  # of each example
SHOWN = 32  # most tokens in a matrix


class Attention(NamedTuple):
    """The attention of one kind in every layer of a model, to a batch of B examples.

    Args:
        kind: Such as "encoder" or "cross": in the names of pictures.
        layers: By the layer's name, from the first on: (B, heads, Q, K) float32, whose rows sum to 1.
        queries: The tokens that look, without padding: the rows of each example, at most Q.
        keys: The tokens that are looked at, the columns; None: they are the queries.
    """

    kind: str
    layers: dict[str, Tensor]
    queries: Tokens
    keys: Tokens | None = None


@runtime_checkable
class GivesAttention(Protocol):
    """What AttentionMaps needs of a method on tokens."""

    @property
    def attention_layers(self) -> int:
        """Layers of each kind of attention."""

    def attention(self, batch: Any) -> list[Attention]:
        """The attention of each kind to a batch, which `read_attention` can read from the modules.

        It is called in evaluation mode, without gradients, on every process with the same batch.
        """


@runtime_checkable
class GivesWeights(Protocol):
    """A module of attention that tells its weights."""

    def weights(self, *args: Any, **kwargs: Any) -> Tensor:
        """Of the arguments of `forward`: (B, heads, Q, K) float32."""


def timm_weights(module: TimmAttention, x: Tensor, **kwargs: Any) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)) of (B, N, D) by timm's attention, which never makes this matrix where it is fused."""
    q, k, _ = module.qkv(x).unflatten(2, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return softmax(module.q_norm(q), module.k_norm(k), module.scale)


def torch_weights(module: nn.MultiheadAttention, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The same by torch's own attention, of torchvision's transformers; batch first and without a mask."""
    d = module.embed_dim
    bias = module.in_proj_bias if module.in_proj_bias is not None else query.new_zeros(3 * d)
    q = F.linear(query, module.in_proj_weight[:d], bias[:d])
    k = F.linear(key, module.in_proj_weight[d : 2 * d], bias[d : 2 * d])
    q, k = (t.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for t in (q, k))
    return softmax(q, k, module.head_dim**-0.5)


def softmax(q: Tensor, k: Tensor, scale: float) -> Tensor:
    return (q.float() @ k.float().mT * scale).softmax(-1)


def weights_of(module: nn.Module) -> Callable[..., Tensor] | None:
    """What gives a module's attention weights; None for one of another kind."""
    if type(module) is TimmAttention:
        return lambda *args, **kwargs: timm_weights(module, *args, **kwargs)
    if type(module) is nn.MultiheadAttention and module.batch_first:
        return lambda *args, **kwargs: torch_weights(module, *args, **kwargs)
    return module.weights if isinstance(module, GivesWeights) else None


def attentions(network: nn.Module) -> dict[str, nn.Module]:
    """The modules of attention in a network that can be read, by name, in their order."""
    return {name: module for name, module in network.named_modules() if weights_of(module) is not None}


@torch.compiler.disable
def read_attention(network: nn.Module, forward: Callable[[], object]) -> dict[str, Tensor]:
    """The weights (B, heads, Q, K) float32 of every attention in a network, by name, while `forward` runs it.

    They are computed again from queries and keys, beside the network's own computation, which stays as it is.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            compute = weights_of(module)
            assert compute is not None
            found[name] = compute(*args, **kwargs)

        return hook

    modules = attentions(network)
    hooks = [module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, module in modules.items()]
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code does not see new hooks
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def rollout(layers: Iterable[Tensor]) -> Tensor:
    """How much of each input token is in each output token, if a layer mixes half its input with the mean of its heads.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers, 2020, https://arxiv.org/abs/2005.00928, section 3:
    the product of (A + I) / 2 over the layers, the last one to the left.

    Args:
        layers: (B, heads, T, T) float, from the first layer on, whose rows sum to 1.

    Returns:
        (B, T, T) float, whose rows sum to 1.
    """
    total = torch.tensor(1.0)
    for weights in layers:
        mixed = (weights.mean(1) + torch.eye(weights.shape[2], device=weights.device)) / 2
        total = mixed @ total if total.ndim else mixed
    return total


def diversity(weights: Tensor, queries: Tensor) -> Tensor:
    """How differently the heads of a layer look: the mean, over all pairs of heads and all queries, of the total
    variation distance of their attention, half the sum of |a - b|. 0: all do the same; 1: no two look at one place.

    Args:
        weights: (B, heads, Q, K) float, at least two heads.
        queries: (B, Q) bool, those that count.

    Returns:
        () float.
    """
    rows = weights.transpose(1, 2)  # (B, Q, heads, K)
    heads = rows.shape[2]
    apart = torch.cdist(rows, rows, p=1).sum((2, 3)) / (2 * heads * (heads - 1))  # (B, Q)
    return (apart * queries).sum() / queries.sum()


class AttentionMaps(HeldOutPictures):
    """Draws what each head of a layer looks at, beside attention rollout: ``pictures/attention-*.png`` in the run's
    folder, a row an example, also sent to loggers of pictures. And logs how much the heads differ.

    For a method with a vision transformer as its backbone: how strongly the class token looks at each patch, laid over
    the picture, or, without one, the mean over the patches that look; each map is scaled to its own range. For a
    method on tokens (GivesAttention): for each kind of attention, such as ``encoder``, the matrix of the first 32
    tokens, a row for each that looks; rollout where tokens look at one another.

    ``val/attention_diversity/<layer>``, also ``train/`` and ``test/``: the mean total variation distance between the
    attention of two heads of the layer, in [0, 1], over the examples drawn; see `diversity`.

    The weights are computed again outside of training, which does not change.

    Args:
        layer: The place of the layer, from 0 or, negative, from the last.
        every_n_epochs: Epochs between two pictures during ``fit``, 0 for none; ``validate`` and ``test`` always draw.
        rows: Most examples shown.

    Raises:
        ValueError: an argument is out of its range; when the run starts, the method has no attention that can be read,
            or no such layer.
    """

    def __init__(self, layer: int = -1, every_n_epochs: int = 10, rows: int = 4) -> None:
        super().__init__(every_n_epochs, rows)
        self.layer = layer

    @property
    def protocols(self) -> dict[str, str]:
        """What the number means, see ResultsFile."""
        return {"attention_diversity": f"attention_diversity-v1: total variation between heads,{self.rows} examples"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if isinstance(pl_module, GivesAttention):
            count = pl_module.attention_layers
        else:
            backbone = getattr(pl_module, "backbone", None)
            name = getattr(backbone, "name", type(backbone).__name__)
            count = len(attentions(backbone)) if isinstance(backbone, nn.Module) else 0
            if not count:
                raise ValueError(
                    f"AttentionMaps finds no attention of all tokens to all in {name}, the backbone of "
                    f"{type(pl_module).__name__}: take a vision transformer, such as --model.backbone "
                    "vit_tiny_patch16_224, or leave the callback out"
                )
        if not -count <= self.layer < count:
            raise ValueError(
                f"AttentionMaps: there is no layer {self.layer}; {type(pl_module).__name__} has {count} layers with "
                f"attention, 0 to {count - 1}, or -1 for the last"
            )

    def draw(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        if isinstance(pl_module, GivesAttention):
            found = pl_module.attention(batch)
            pictures = {f"attention-{a.kind}": partial(draw_tokens, a, self.layer) for a in found}
            layers = [(layer, w, lengths(a.queries, w)) for a in found for layer, w in a.layers.items()]
        else:
            backbone: Any = pl_module.backbone
            net, x = getattr(backbone, "net", backbone), batch.views[0]
            by_layer = read_attention(net, lambda: backbone(x))
            pictures = {"attention": partial(draw_patches, x.float().cpu(), by_layer, self.layer, net)}
            layers = [(name, w, torch.ones_like(w[:, 0, :, 0])) for name, w in by_layer.items()]
        stage = "test" if trainer.testing else "train" if trainer.training else "val"
        for layer, weights, queries in layers:
            if weights.shape[1] > 1:
                value = diversity(weights, queries)
                name = f"{stage}/attention_diversity/{layer}"
                pl_module.log(name, value, batch_size=1, add_dataloader_idx=False, sync_dist=True)  # already the same
        if trainer.is_global_zero:
            for name, figure in pictures.items():
                save_picture(trainer, name, figure())


def lengths(tokens: Tokens, weights: Tensor) -> Tensor:
    """(B, Q) float: 1 for the tokens, 0 for what fills the rows up."""
    length = torch.tensor([len(row) for row in tokens], device=weights.device)
    return (torch.arange(weights.shape[2], device=weights.device) < length[:, None]).float()


def draw_patches(images: Tensor, layers: dict[str, Tensor], layer: int, net: nn.Module) -> Any:
    """A figure with a row for each of `images` (B, C, H, W): what the heads of a layer and rollout see in it.

    Args:
        images: Float in [0, 1] on the CPU.
        layers: (B, heads, T, T) of every layer, by name.
        layer: The place of one.
        net: The transformer, which may have a class token and other tokens before those of the patches.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    name, chosen = list(layers.items())[layer]
    seen = torch.cat([chosen, rollout(layers.values())[:, None]], dim=1).cpu()  # (B, heads + 1, T, T)
    has_class = any(isinstance(getattr(net, token, None), Tensor) for token in ("cls_token", "class_token"))
    first = getattr(net, "num_prefix_tokens", int(has_class))
    maps = seen[:, :, 0, first:] if has_class else seen[:, :, first:, first:].mean(2)  # (B, heads + 1, P)
    maps = maps.unflatten(2, (math.isqrt(maps.shape[2]), -1))
    rows, columns = maps.shape[:2]
    figure = Figure(figsize=(1.3 * (columns + 1) + 0.4, 1.3 * rows + 0.7), dpi=100, layout="constrained")
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    figure.suptitle(f"{name}: where {'the class token looks' if has_class else 'the patches look'}", fontsize=10)
    for axes, title in zip(grid[0], ["image", *heads(columns - 1), "rollout"], strict=True):
        axes.set_title(title, fontsize=9)
    height, width = images.shape[2:]
    for row, image in enumerate(images):
        show(grid[row, 0], image, "black")
        for axes, weights in zip(grid[row, 1:], maps[row], strict=True):
            show(axes, image.mean(0, keepdim=True), "black")
            axes.imshow(weights.numpy(), cmap="inferno", alpha=0.65, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    return figure


def draw_tokens(attention: Attention, layer: int) -> Any:
    """A figure with a row for each example: the matrices of the heads of a layer, and rollout in self-attention."""
    from matplotlib.figure import Figure  # noqa: PLC0415  (slow to import)

    name, chosen = list(attention.layers.items())[layer]
    seen = list(chosen.unbind(1))
    titles = heads(len(seen))
    if attention.keys is None:
        seen, titles = [*seen, rollout(attention.layers.values())], [*titles, "rollout"]
    keys = attention.queries if attention.keys is None else attention.keys
    most = min(SHOWN, max(map(len, [*attention.queries, *keys])))
    side, rows = 0.16 * most + 0.8, len(attention.queries)
    figure = Figure(figsize=(side * len(seen) + 0.4, side * rows + 0.5), dpi=100, layout="constrained")
    grid = figure.subplots(rows, len(seen), squeeze=False)
    figure.suptitle(f"{name}: rows look at columns", fontsize=10)
    for row, (look, at) in enumerate(zip(attention.queries, keys, strict=True)):
        look, at = look[:SHOWN], at[:SHOWN]
        for axes, title, weights in zip(grid[row], titles, seen, strict=True):
            axes.imshow(weights[row, : len(look), : len(at)].cpu().numpy(), cmap="viridis", vmin=0)
            axes.set_xticks(range(len(at)), [drawn(token) for token in at], rotation=90, fontsize=7)
            axes.set_yticks(range(len(look)), [drawn(token) for token in look], fontsize=7)
            axes.set_title(title, fontsize=9)
    return figure


def heads(count: int) -> list[str]:
    return [f"head {number}" for number in range(count)]


def drawn(token: str) -> str:
    return token.replace("$", r"\$")  # which would begin a formula
