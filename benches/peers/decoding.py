"""Greedy and beam decoding with the translator, written the way PyTorch is fastest in eager mode on a CPU: no module
calls and no autograd, cross keys and values computed once, self keys and values kept in a cache that is written in
place, results added to the residual stream in place.

B = batch, K = beams, R = B * K rows, S = source length, L = steps, D = model dimension, V = vocabulary, H = heads.
"""

import math
import statistics
import time

import torch
import torch.nn.functional as F

from translator import Translator

BOS, EOS = 1, 2


def default_kernel(weight, bias):
    return lambda x: F.linear(x, weight, bias)


def transposed_kernel(weight, bias):
    """The same product on a copy of the weight that is stored [in, out]."""
    packed = weight.t().contiguous()
    if bias is None:
        return lambda x: torch.mm(x, packed) if x.dim() == 2 else x @ packed
    return lambda x: torch.addmm(bias, x, packed) if x.dim() == 2 else x @ packed + bias


def onednn_kernel(weight, bias):
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x, weight, bias, "none", [], "")


KERNELS = {"default": default_kernel, "transposed": transposed_kernel, "onednn": onednn_kernel}


class Layer:
    """A layer of the decoder with its parameters at hand, and what it remembers of a run."""

    def __init__(self, block, heads, kernel):
        own, cross = block.self_attention, block.cross_attention
        self.heads = heads
        self.query_key_value, self.output = (kernel(m.weight, m.bias) for m in (own.query_key_value, own.output))
        self.query, self.key_value = (kernel(m.weight, m.bias) for m in (cross.query, cross.key_value))
        self.cross_output = kernel(cross.output.weight, cross.output.bias)
        self.up, self.down = (kernel(m.weight, m.bias) for m in (block.up, block.down))
        self.norms = [(m.weight.shape, m.weight, m.bias, m.eps) for m in
                      (block.self_norm, block.cross_norm, block.ff_norm)]

    def read(self, memory):
        """Cross keys and values of memory [B, S, D]."""
        self.keys, self.values = self.split(self.key_value(memory), 2)  # [B, H, S, D / H]

    def remember(self, rows, steps, d_model):
        """Two caches, so that a reordered one has a place to go to."""
        self.caches = [torch.empty(rows, steps, 2 * d_model) for _ in range(2)]
        self.pasts = [self.split(cache, 2) for cache in self.caches]  # views [R, H, L, D / H]

    def reorder(self, parents, length):
        self.caches.reverse()
        self.pasts.reverse()
        torch.index_select(self.caches[1][:, :length], 0, parents, out=self.caches[0][:, :length])

    def split(self, x, parts):
        """[R, L, parts * D] -> views [R, H, L, D / H]"""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def step(self, x, t, beams):
        """x: [R, D], the token at position t; changed in place."""
        rows, d = x.shape
        both = self.query_key_value(F.layer_norm(x, *self.norms[0]))  # [R, 3 D]
        self.caches[0][:, t] = both[:, d:]
        q = both[:, :d].view(rows, self.heads, 1, -1)  # [R, H, 1, D / H]
        k, v = (past[:, :, : t + 1] for past in self.pasts[0])
        x += self.output(F.scaled_dot_product_attention(q, k, v).reshape(rows, d))

        # The beams of a sentence are queries of one attention: its keys and values aren't repeated for them.
        q = self.query(F.layer_norm(x, *self.norms[1]))  # [R, D]
        q = q.view(-1, beams, self.heads, d // self.heads).transpose(1, 2)  # [B, H, K, D / H]
        y = F.scaled_dot_product_attention(q, self.keys, self.values)
        x += self.cross_output(y.transpose(1, 2).reshape(rows, d))
        x += self.down(self.up(F.layer_norm(x, *self.norms[2])).relu_())

    def prefix(self, x, beams):
        """x: [R, T, D], everything written so far; changed in place."""
        rows, t, d = x.shape
        q, k, v = self.split(self.query_key_value(F.layer_norm(x, *self.norms[0])), 3)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x += self.output(y.transpose(1, 2).reshape(rows, t, d))

        q = self.query(F.layer_norm(x, *self.norms[1])).view(-1, beams * t, self.heads, d // self.heads)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), self.keys, self.values)  # [B, H, K * T, D / H]
        x += self.cross_output(y.transpose(1, 2).reshape(rows, t, d))
        x += self.down(self.up(F.layer_norm(x, *self.norms[2])).relu_())


class Decoding:
    """A model with random parameters and random sources without padding; `run` translates them."""

    def __init__(self, config, batch, source_length, kernel="default", seed=0, max_length=1024):
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel}")
        torch.manual_seed(seed)
        self.config = config
        self.model = Translator(config, max_length).eval()
        self.source = torch.randint(EOS + 1, config.vocab, [batch, source_length])
        with torch.inference_mode():
            self.layers = [Layer(block, config.heads, KERNELS[kernel]) for block in self.model.decoder]
            self.score = KERNELS[kernel](self.model.output, None)
        norm = self.model.decoder_norm
        self.norm = (norm.weight.shape, norm.weight, norm.bias, norm.eps)

    def embed(self, ids, positions):
        return torch.add(positions, F.embedding(ids, self.model.target), alpha=math.sqrt(self.config.d_model))

    def logits(self, x):
        """[R, D] -> [R, V], without the token that would end a sentence early."""
        logits = self.score(F.layer_norm(x, *self.norm))
        logits[:, EOS] = -math.inf
        return logits

    def next_logits(self, written, t, cached, beams):
        """Logits [R, V] of the token after written[:, : t + 1]."""
        if cached:
            x = self.embed(written[:, t], self.model.positions[t])  # [R, D]
            for layer in self.layers:
                layer.step(x, t, beams)
            return self.logits(x)
        x = self.embed(written[:, : t + 1], self.model.positions[: t + 1])  # [R, T, D]
        for layer in self.layers:
            layer.prefix(x, beams)
        return self.logits(x[:, -1])

    @torch.inference_mode()
    def once(self, steps, cached, beams):
        """Encodes and writes `steps` tokens: [B, L], those of the most probable beam."""
        batch = self.source.shape[0]
        memory = self.model.encode(self.source, None)
        for layer in self.layers:
            layer.read(memory)
            if cached:
                layer.remember(batch * beams, steps, self.config.d_model)
        written = torch.full([batch * beams, steps + 1], BOS)
        if beams == 1:
            for t in range(steps):
                written[:, t + 1] = self.next_logits(written, t, cached, 1).argmax(-1)
            return written[:, 1:]
        return self.beam_search(written, steps, cached, beams)

    def beam_search(self, written, steps, cached, beams):
        batch, vocab = self.source.shape[0], self.config.vocab
        # All beams begin alike: but for the first, none may continue.
        scores = torch.full([batch, beams], -math.inf)
        scores[:, 0] = 0.0
        first = torch.arange(0, batch * beams, beams)[:, None]  # row of each sentence's first beam
        for t in range(steps):
            logits = self.next_logits(written, t, cached, beams)
            scores = logits.log_softmax(-1).view(batch, beams, vocab).add_(scores[:, :, None]).flatten(1)
            scores, choice = scores.topk(beams)  # [B, K], best first
            parents = (first + choice // vocab).flatten()
            written = written.index_select(0, parents)
            written[:, t + 1] = (choice % vocab).flatten()
            if cached and t + 1 < steps:
                for layer in self.layers:
                    layer.reorder(parents, t + 1)
        return written[::beams, 1:]

    def run(self, steps, cached=True, beams=1, runs=3, warm_up=1):
        if not 1 <= steps <= self.model.positions.shape[0]:
            raise ValueError(f"steps must be between 1 and {self.model.positions.shape[0]}, not {steps}")
        durations = []
        for i in range(warm_up + runs):
            start = time.perf_counter_ns()
            tokens = self.once(steps, cached, beams)
            if i >= warm_up:
                durations.append(time.perf_counter_ns() - start)
        return {"median_ns": statistics.median(durations), "best_ns": min(durations), "runs": runs,
                "tokens": tokens.tolist()}
