"""The mathematics of Attentia's transformer in PyTorch, on a dictionary of parameters by path.

B = batch, T = queries or target length, S = keys or source length, C = width, H = heads, D = C / H, V = vocabulary.
Masks are bool, true: may attend. `modules.py` checks these functions against PyTorch's own layers.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


def at(path, name):
    return f"{path}.{name}" if path else name


def linear(p, path, x):
    return F.linear(x, p[at(path, "weight")], p[at(path, "bias")])


def layer_norm(p, path, x):
    return F.layer_norm(x, x.shape[-1:], p[at(path, "weight")], p[at(path, "bias")], eps=1e-5)


def causal(queries, keys):
    """[T, S], bottom-right aligned: the last query sees the last key."""
    return torch.arange(keys) <= torch.arange(queries)[:, None] + keys - queries


def key_padding(lengths, keys):
    """[B, 1, 1, S]: keys before each length."""
    return torch.arange(keys) < lengths[:, None, None, None]


def masked_softmax(scores, mask):
    """Zeros, with zero gradients, for a row that may attend to nothing. Such a row is made finite before the softmax:
    a NaN in a branch that `where` does not take would still be a NaN in the gradient."""
    if mask is None:
        return scores.softmax(-1)
    some = mask.any(-1, keepdim=True)
    scores = torch.where(some, torch.where(mask, scores, -math.inf), 0.0)
    return torch.where(some, scores.softmax(-1), 0.0)


def attention(q, k, v, mask=None, bias=None):
    """q: [B, H, T, D], k: [B, H, S, D], v: [B, H, S, Dv] -> [B, H, T, Dv] and the weights [B, H, T, S]."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias
    weights = masked_softmax(scores, mask)
    return weights @ v, weights


def multi_head(p, path, heads, query, key, value, mask=None, bias=None):
    """query: [B, T, C], key and value: [B, S, C] -> [B, T, C] and the weights [B, H, T, S]."""

    def split(name, x):
        return linear(p, at(path, name), x).unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, T, D]

    out, weights = attention(split("query", query), split("key", key), split("value", value), mask, bias)
    return linear(p, at(path, "output"), out.transpose(1, 2).flatten(2)), weights


def feed_forward(p, path, x, activation=F.relu):
    return linear(p, at(path, "down"), activation(linear(p, at(path, "up"), x)))


def residual(p, path, x, part, pre_norm):
    """`part` returns a value and something to keep: x + part(norm(x)), or norm(x + part(x))."""
    value, kept = part(layer_norm(p, path, x) if pre_norm else x)
    return (x + value if pre_norm else layer_norm(p, path, x + value)), kept


def encoder_layer(p, path, x, mask, heads, pre_norm):
    x, weights = residual(p, at(path, "self_norm"), x,
                          lambda y: multi_head(p, at(path, "self"), heads, y, y, y, mask), pre_norm)
    x, _ = residual(p, at(path, "ff_norm"), x, lambda y: (feed_forward(p, at(path, "ff"), y), None), pre_norm)
    return x, weights


def decoder_layer(p, path, x, memory, mask, memory_mask, heads, pre_norm):
    x, own = residual(p, at(path, "self_norm"), x,
                      lambda y: multi_head(p, at(path, "self"), heads, y, y, y, mask), pre_norm)
    x, cross = residual(p, at(path, "cross_norm"), x,
                        lambda y: multi_head(p, at(path, "cross"), heads, y, memory, memory, memory_mask), pre_norm)
    x, _ = residual(p, at(path, "ff_norm"), x, lambda y: (feed_forward(p, at(path, "ff"), y), None), pre_norm)
    return x, own, cross


def attention_shapes(path, width):
    return {f"{path}.{name}.{kind}": [width, width] if kind == "weight" else [width]
            for name in ("query", "key", "value", "output") for kind in ("weight", "bias")}


def layer_shapes(path, width, hidden, cross):
    """Shapes of a layer's parameters by path; a decoder's layer attends across too."""
    shapes = {}
    for part in ("self", "cross") if cross else ("self",):
        shapes |= attention_shapes(at(path, part), width)
        shapes |= norm_shapes(at(path, f"{part}_norm"), width)
    shapes |= norm_shapes(at(path, "ff_norm"), width)
    shapes |= {at(path, "ff.up.weight"): [hidden, width], at(path, "ff.up.bias"): [hidden],
               at(path, "ff.down.weight"): [width, hidden], at(path, "ff.down.bias"): [width]}
    return shapes


def norm_shapes(path, width):
    return {f"{path}.weight": [width], f"{path}.bias": [width]}


@dataclass(frozen=True)
class Config:
    vocabulary: int
    width: int
    heads: int
    layers: int
    hidden: int
    positions: int
    pre_norm: bool

    def shapes(self):
        """Shapes of all parameters by path. Only the pre-norm form has a norm behind each stack."""
        shapes = {"embedding.weight": [self.vocabulary, self.width]}
        for stack in ("encoder", "decoder"):
            for i in range(self.layers):
                shapes |= layer_shapes(f"{stack}.{i}", self.width, self.hidden, cross=stack == "decoder")
            if self.pre_norm:
                shapes |= norm_shapes(f"{stack}.norm", self.width)
        return dict(sorted(shapes.items()))


def sinusoidal(positions, width):
    """[positions, C]: the sine at column 2i, the cosine of the same angle at column 2i + 1."""
    angles = torch.arange(positions)[:, None] / 10_000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def embed(p, config, ids):
    x = F.embedding(ids, p["embedding.weight"]) * math.sqrt(config.width)
    return x + sinusoidal(config.positions, config.width)[: ids.shape[1]]  # [B, T, C]


def encode(p, config, source, lengths):
    """source: [B, S] -> memory [B, S, C], its mask [B, 1, 1, S], and the maps [B, H, S, S] by place."""
    x, mask, maps = embed(p, config, source), key_padding(lengths, source.shape[1]), {}
    for i in range(config.layers):
        x, maps[f"enc.{i}.self"] = encoder_layer(p, f"encoder.{i}", x, mask, config.heads, config.pre_norm)
    return (layer_norm(p, "encoder.norm", x) if config.pre_norm else x), mask, maps


def decode(p, config, written, memory, memory_mask):
    """written: [B, T] -> logits [B, T, V], and the maps [B, H, T, T] and [B, H, T, S] by place."""
    x, mask, maps = embed(p, config, written), causal(written.shape[1], written.shape[1]), {}
    for i in range(config.layers):
        x, maps[f"dec.{i}.self"], maps[f"dec.{i}.cross"] = decoder_layer(
            p, f"decoder.{i}", x, memory, mask, memory_mask, config.heads, config.pre_norm)
    if config.pre_norm:
        x = layer_norm(p, "decoder.norm", x)
    return x @ p["embedding.weight"].T, maps
