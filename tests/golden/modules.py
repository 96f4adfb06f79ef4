"""Golden cases of modules, optimisers and schedules: `modules.safetensors`.

A case of a module is one forward and the gradients of `sum(out * dout)`. Its numbers depend on its own name only, so
that a new case leaves the others as they are.
"""

import json
import math
import zlib

import torch
import torch.nn.functional as F
from torch import nn

from transformer import (attention, attention_shapes, causal, decoder_layer, encoder_layer, feed_forward, key_padding,
                         layer_norm, layer_shapes, linear, multi_head)

SEED = 20_260_101
BATCH, QUERIES, KEYS, WIDTH, HEADS = 2, 4, 5, 4, 2
LENGTHS = torch.tensor([5, 3])  # of keys
OWN_LENGTHS = torch.tensor([3, 4])  # of a sequence that attends to itself


class Random:
    """Draws for one case."""

    def __init__(self, name):
        self.generator = torch.Generator().manual_seed(SEED + zlib.crc32(name.encode()))

    def normal(self, *shape):
        return torch.randn(shape, generator=self.generator)

    def parameters(self, shapes):
        return {path: self.normal(*shape) / math.sqrt(shape[-1]) for path, shape in shapes.items()}

    def allowed(self, *shape):
        """About two thirds true, and the first key always: no row is without one, under a causal mask neither."""
        mask = torch.rand(*shape, generator=self.generator) < 0.65
        mask[..., 0] = True
        return mask


class Cases:
    def __init__(self):
        self.tensors, self.metadata = {}, {}

    def put(self, name, constants=None, **tensors):
        self.tensors |= {f"{name}/{key}": value for key, value in tensors.items()}
        if constants:
            self.metadata[name] = json.dumps(constants, sort_keys=True)

    def module(self, name, compute, inputs, parameters, constants=None):
        """`compute(inputs, parameters)` returns the output, or the output and the attention weights by name."""
        leaves = {f"in/{key}": value for key, value in inputs.items()}
        leaves |= {f"param/{path}": value for path, value in parameters.items()}
        wanted = {key: value.requires_grad_() for key, value in leaves.items() if value.is_floating_point()}
        result = compute(inputs, parameters)
        out, kept = result if isinstance(result, tuple) else (result, {})
        dout = Random(f"{name}/dout").normal(*out.shape)
        gradients = torch.autograd.grad((out * dout).sum(), list(wanted.values()))
        kept = kept | {f"grad/{key}": gradient for key, gradient in zip(wanted, gradients)}
        assert all(value.isfinite().all() for value in kept.values()), name
        self.put(name, constants, out=out, dout=dout, **leaves, **kept)
        return out


def close(a, b, what):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda text: f"{what}: {text}")


def simple(cases):
    def case(name, compute, shapes, constants=None, **inputs):
        random = Random(name)
        inputs = inputs or {"x": random.normal(BATCH, QUERIES, WIDTH)}
        cases.module(name, compute, inputs, random.parameters(shapes), constants)

    case("linear", lambda i, p: linear(p, "", i["x"]), {"weight": [3, WIDTH], "bias": [3]})
    case("embedding", lambda i, p: F.embedding(i["index"], p["weight"]), {"weight": [9, WIDTH]},
         index=torch.tensor([[3, 8, 0, 3, 3], [0, 5, 1, 8, 3]]))
    case("layer_norm", lambda i, p: layer_norm(p, "", i["x"]), {"weight": [WIDTH], "bias": [WIDTH]}, {"epsilon": 1e-5})
    case("rms_norm", lambda i, p: F.rms_norm(i["x"], [WIDTH], p["weight"], eps=1e-5), {"weight": [WIDTH]},
         {"epsilon": 1e-5})

    hidden = 6
    shapes = {"up.weight": [hidden, WIDTH], "up.bias": [hidden], "down.weight": [WIDTH, hidden], "down.bias": [WIDTH]}
    activations = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}
    for name, activation in activations.items():
        case(f"feed_forward.{name}", lambda i, p: feed_forward(p, "", i["x"], activation), shapes)
    case("feed_forward.swiglu",
         lambda i, p: linear(p, "down", F.silu(linear(p, "gate", i["x"])) * linear(p, "up", i["x"])),
         {**shapes, "gate.weight": [hidden, WIDTH], "gate.bias": [hidden]})

    for name, smoothing in (("plain", 0.0), ("smoothed", 0.1)):
        case(f"cross_entropy.{name}",
             lambda i, p: F.cross_entropy(i["logits"], i["targets"], ignore_index=-100, label_smoothing=smoothing),
             {}, {"label_smoothing": smoothing, "ignore_index": -100},
             logits=2 * Random(f"cross_entropy.{name}").normal(6, 11), targets=torch.tensor([4, 0, -100, 10, 4, 7]))


def mask_cases(random, queries, keys, lengths):
    """What each kind of mask adds to a case's inputs. `mask` is always the whole mask, `lengths` what it came from."""
    full = [BATCH, HEADS, queries, keys]
    yield "plain", {}
    yield "causal", {"mask": causal(queries, keys)}
    padding = {"mask": key_padding(lengths, keys), "lengths": lengths}
    yield "key_padding", padding
    yield "left_padding", {"mask": key_padding(lengths, keys).flip(-1), "lengths": lengths}
    yield "boolean", {"mask": random.allowed(*full)}
    yield "bias", {"bias": random.normal(1, *full[1:])}
    allowed = random.allowed(*full)
    yield "together", {"mask": allowed & causal(queries, keys) & padding["mask"], "allowed": allowed,
                       "lengths": lengths, "bias": random.normal(1, *full[1:])}
    dead = random.allowed(*full)
    dead[0, :, 1] = False  # in every head
    dead[1, 0, queries - 1] = False
    dead[1, 1, :2] = False
    yield "nothing_visible", {"mask": dead, "bias": random.normal(1, *full[1:])}


def scores_added(inputs):
    """The mask and the bias of a case as PyTorch takes them: one bias, -inf where nothing may attend."""
    if "mask" not in inputs:
        return inputs.get("bias")
    return torch.where(inputs["mask"], inputs.get("bias", torch.zeros(())), -math.inf)


def with_weights(out, weights):
    return out, {"weights": weights}


def every_row_sees_a_key(inputs):
    return "mask" not in inputs or bool(inputs["mask"].any(-1).all())


def attentions(cases):
    family = "scaled_dot_product"
    kinds = [*mask_cases(Random(family), QUERIES, KEYS, LENGTHS),
             ("causal_more_queries", {"mask": causal(QUERIES, 2)})]  # the first two queries see nothing
    for kind, extra in kinds:
        name = f"{family}.{kind}"
        random, keys = Random(name), extra["mask"].shape[-1] if kind == "causal_more_queries" else KEYS
        inputs = {"q": random.normal(BATCH, HEADS, QUERIES, 3), "k": random.normal(BATCH, HEADS, keys, 3),
                  "v": random.normal(BATCH, HEADS, keys, 2), **extra}
        out = cases.module(
            name, lambda i, p: with_weights(*attention(i["q"], i["k"], i["v"], i.get("mask"), i.get("bias"))), inputs,
            {})
        if every_row_sees_a_key(inputs):
            q, k, v = (inputs[key] for key in "qkv")
            close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=scores_added(inputs)), name)

    for sources in (["x"], ["query", "key", "value"]):
        family = "multi_head.self" if len(sources) == 1 else "multi_head.cross"
        keys, lengths = (QUERIES, OWN_LENGTHS) if len(sources) == 1 else (KEYS, LENGTHS)
        for kind, extra in mask_cases(Random(family), QUERIES, keys, lengths):
            name = f"{family}.{kind}"
            random = Random(name)
            inputs = {source: random.normal(BATCH, QUERIES if source in ("x", "query") else keys, WIDTH)
                      for source in sources}
            names = sources if len(sources) == 3 else sources * 3
            parameters = random.parameters({path[1:]: shape for path, shape in attention_shapes("", WIDTH).items()})
            out = cases.module(
                name,
                lambda i, p: with_weights(*multi_head(p, "", HEADS, *(i[n] for n in names), i.get("mask"),
                                                      i.get("bias"))),
                {**inputs, **extra}, parameters, {"heads": HEADS})
            if every_row_sees_a_key(extra):
                close(out, torch_multi_head(parameters, "", HEADS)(
                    *(inputs[n] for n in names), attn_mask=torch_mask(scores_added(extra), QUERIES, keys))[0], name)


def torch_mask(added, queries, keys):
    """[B * H, T, S], as PyTorch's multi-head attention takes it."""
    return None if added is None else added.expand(BATCH, HEADS, queries, keys).flatten(0, 1)


def torch_multi_head(p, path, heads, module=None):
    """PyTorch's multi-head attention with the parameters below a path."""
    width = p[path + "output.bias"].shape[0]
    module = nn.MultiheadAttention(width, heads, batch_first=True) if module is None else module
    with torch.no_grad():
        for kind, packed in (("weight", module.in_proj_weight), ("bias", module.in_proj_bias)):
            packed.copy_(torch.cat([p[f"{path}{name}.{kind}"] for name in ("query", "key", "value")]))
            getattr(module.out_proj, kind).copy_(p[f"{path}output.{kind}"])
    return module


def torch_layer(p, heads, hidden, pre_norm, cross):
    """PyTorch's own encoder or decoder layer with these parameters."""
    make = nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer
    module = make(p["self_norm.bias"].shape[0], heads, hidden, dropout=0.0, batch_first=True, norm_first=pre_norm)
    torch_multi_head(p, "self.", heads, module.self_attn)
    pairs = {"linear1": "ff.up", "linear2": "ff.down", "norm1": "self_norm", "norm2": "ff_norm"}
    if cross:
        torch_multi_head(p, "cross.", heads, module.multihead_attn)
        pairs |= {"norm2": "cross_norm", "norm3": "ff_norm"}
    with torch.no_grad():
        for own, path in pairs.items():
            for kind in ("weight", "bias"):
                getattr(getattr(module, own), kind).copy_(p[f"{path}.{kind}"])
    return module


def layers(cases):
    width, heads, hidden = 6, 3, 8
    for form in ("pre", "post"):
        pre_norm, constants = form == "pre", {"heads": heads, "norm": form}

        name = f"encoder_layer.{form}"
        random = Random(name)
        mask = key_padding(LENGTHS, KEYS)
        x, p = random.normal(BATCH, KEYS, width), random.parameters(trimmed(layer_shapes("", width, hidden, False)))
        out = cases.module(name, lambda i, p: with_weights(*encoder_layer(p, "", i["x"], i["mask"], heads, pre_norm)),
                           {"x": x, "mask": mask, "lengths": LENGTHS}, p, constants)
        close(out, torch_layer(p, heads, hidden, pre_norm, False)(x, src_key_padding_mask=~mask[:, 0, 0]), name)

        name = f"decoder_layer.{form}"
        random = Random(name)
        x, memory = random.normal(BATCH, QUERIES, width), random.normal(BATCH, KEYS, width)
        p = random.parameters(trimmed(layer_shapes("", width, hidden, True)))
        inputs = {"x": x, "memory": memory, "mask": causal(QUERIES, QUERIES), "memory_mask": mask,
                  "memory_lengths": LENGTHS}

        def compute(i, p):
            out, own, across = decoder_layer(p, "", i["x"], i["memory"], i["mask"], i["memory_mask"], heads, pre_norm)
            return out, {"weights/self": own, "weights/cross": across}

        out = cases.module(name, compute, inputs, p, constants)
        close(out, torch_layer(p, heads, hidden, pre_norm, True)(
            x, memory, tgt_mask=~inputs["mask"], memory_key_padding_mask=~mask[:, 0, 0]), name)


def trimmed(shapes):
    return {path.removeprefix("."): shape for path, shape in shapes.items()}


def optimizers(cases):
    kinds = {
        "sgd.plain": (torch.optim.SGD, {"lr": 0.1}),
        "sgd.momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        "sgd.nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        "adam": (torch.optim.Adam, {"lr": 0.05, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.01}),
        "adamw": (torch.optim.AdamW, {"lr": 0.05, "betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.01}),
    }
    for name, (optimizer, constants) in kinds.items():
        random = Random(name)
        initial, gradients, trajectory = random.normal(5), random.normal(6, 5), []
        parameter = nn.Parameter(initial.clone())
        steps = optimizer([parameter], foreach=False, **constants)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            steps.step()
            trajectory.append(parameter.detach().clone())
        cases.put(name, constants, initial=initial, gradients=gradients, trajectory=torch.stack(trajectory))


def clipping(cases):
    """PyTorch multiplies by min(1, limit / (norm + 1e-6)): a relative 1e-6 / norm less than the exact factor."""
    for name, limit in (("clip_norm.longer", 1.5), ("clip_norm.shorter", 50.0)):
        random = Random(name)
        gradients = {"a": random.normal(3, 4), "b": random.normal(5), "c": random.normal(2, 2, 2)}
        parameters = [nn.Parameter(torch.zeros_like(value)) for value in gradients.values()]
        for parameter, gradient in zip(parameters, gradients.values()):
            parameter.grad = gradient.clone()
        nn.utils.clip_grad_norm_(parameters, limit, foreach=False)
        norm = torch.cat([value.flatten() for value in gradients.values()]).norm()
        assert (norm > limit) == name.endswith("longer")
        cases.put(name, {"limit": limit}, norm=norm, **{f"in/{key}": value for key, value in gradients.items()},
                  **{f"out/{key}": parameter.grad for key, parameter in zip(gradients, parameters)})


def schedules(cases):
    peak, warmup, total, floor = 3e-3, 10, 32, 1e-4

    def linear_fall(step):
        """Zero from step total + 1 on: the last step still learns."""
        return max(0.0, min(step / warmup, (total + 1 - step) / (total + 1 - warmup)))

    def cosine_fall(step):
        if step <= warmup:
            return peak * step / warmup
        done = min(step - warmup, total - warmup) / (total - warmup)
        return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2

    kinds = {
        "constant": (lambda step: peak, {"peak": peak}),
        "inverse_square_root": (lambda step: peak * min(step / warmup, math.sqrt(warmup / step)),
                                {"peak": peak, "warmup": warmup}),
        "linear": (lambda step: peak * linear_fall(step), {"peak": peak, "warmup": warmup, "total": total}),
        "cosine": (cosine_fall, {"peak": peak, "warmup": warmup, "total": total, "floor": floor}),
    }
    for name, (rate, constants) in kinds.items():
        cases.put(f"schedule.{name}", constants, rates=torch.tensor([rate(step) for step in range(1, 41)]))


def make():
    cases = Cases()
    for family in (simple, attentions, layers, optimizers, clipping, schedules):
        family(cases)
    return cases.tensors, {"seed": str(SEED), **cases.metadata}
