"""The translator that the training benchmark runs in PyTorch: a pre-norm encoder-decoder, written the way PyTorch is
fastest on a CPU (one product for q, k and v, fused attention, fused AdamW), with the mathematics of ours.

B = batch, S = source length, T = target length, D = model dimension, V = vocabulary, H = heads.
"""

import json
import math
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

PAD = 0


@dataclass
class Config:
    """Shape of the model. `attention_dropout` is apart because PyTorch's fused CPU attention has no dropout: any value
    above zero sends it to the composed path. `tied`: one matrix for source, target and output, or three."""

    d_model: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    ff: int
    vocab: int
    dropout: float = 0.0
    attention_dropout: float = 0.0
    tied: bool = True


def sinusoids(length, d_model):
    """Sine in the first half of the channels, cosine in the second: [length, D]."""
    half = d_model // 2
    rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / half))
    angles = torch.arange(length)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Attention(nn.Module):
    def __init__(self, config, cross):
        super().__init__()
        d = config.d_model
        self.heads, self.dropout, self.cross = config.heads, config.attention_dropout, cross
        if cross:
            self.query, self.key_value = nn.Linear(d, d), nn.Linear(d, 2 * d)
        else:
            self.query_key_value = nn.Linear(d, 3 * d)
        self.output = nn.Linear(d, d)

    def forward(self, x, memory=None, bias=None, causal=False):
        # Attention itself is in f32 always: on a CPU its bf16 form is the slower one, casts included.
        if self.cross:
            q = self.query(x).float()
            k, v = self.key_value(memory).float().chunk(2, dim=-1)
        else:
            q, k, v = self.query_key_value(x).float().chunk(3, dim=-1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))  # [B, H, T, D / H]
        dropout = self.dropout if self.training else 0.0
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=causal)
        return self.output(y.transpose(1, 2).flatten(2).to(self.output.weight.dtype))  # [B, T, D]


class Block(nn.Module):
    """Self attention, in the decoder attention to the encoder's output, and feed forward: each `x + f(norm(x))`."""

    def __init__(self, config, cross):
        super().__init__()
        d = config.d_model
        self.p = config.dropout
        self.self_norm, self.self_attention = nn.LayerNorm(d), Attention(config, cross=False)
        if cross:
            self.cross_norm, self.cross_attention = nn.LayerNorm(d), Attention(config, cross=True)
        self.ff_norm, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, config.ff), nn.Linear(config.ff, d)

    def residual(self, x, y):
        return x + F.dropout(y, self.p, self.training)

    def feed_forward(self, x):
        return self.residual(x, self.down(F.relu(self.up(self.ff_norm(x)))))

    def encode(self, x, source_bias):
        x = self.residual(x, self.self_attention(self.self_norm(x), bias=source_bias))
        return self.feed_forward(x)

    def decode(self, x, memory, source_bias):
        x = self.residual(x, self.self_attention(self.self_norm(x), causal=True))
        x = self.residual(x, self.cross_attention(self.cross_norm(x), memory, bias=source_bias))
        return self.feed_forward(x)


class Translator(nn.Module):
    """`source`, `target` and `output` are [V, D] each: they embed the source, embed the target and score the next
    token. Tied, they are one."""

    def __init__(self, config, max_length=1024):
        super().__init__()
        self.config = config
        self.source = self.table()
        self.target, self.output = (self.source, self.source) if config.tied else (self.table(), self.table())
        self.register_buffer("positions", sinusoids(max_length, config.d_model), persistent=False)
        self.encoder = nn.ModuleList(Block(config, cross=False) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(Block(config, cross=True) for _ in range(config.decoder_layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(config.d_model), nn.LayerNorm(config.d_model)

    def table(self):
        return nn.Parameter(torch.randn(self.config.vocab, self.config.d_model) * self.config.d_model**-0.5)

    def embed(self, ids, table):
        x = F.embedding(ids, table, padding_idx=PAD) * math.sqrt(self.config.d_model)
        return F.dropout(x + self.positions[: ids.shape[1]], self.config.dropout, self.training)

    def encode(self, source, source_bias):
        memory = self.embed(source, self.source)
        for block in self.encoder:
            memory = block.encode(memory, source_bias)
        return self.encoder_norm(memory)

    def forward(self, source, decoder_input, source_bias):
        """Logits [B, T, V] from source [B, S], decoder_input [B, T] and source_bias [B, 1, 1, S] or None."""
        memory = self.encode(source, source_bias)
        x = self.embed(decoder_input, self.target)
        for block in self.decoder:
            x = block.decode(x, memory, source_bias)
        return F.linear(self.decoder_norm(x), self.output)


@dataclass
class Batch:
    source: torch.Tensor  # [B, S]
    decoder_input: torch.Tensor  # [B, T]
    decoder_target: torch.Tensor  # [B, T]
    source_bias: torch.Tensor | None  # [B, 1, 1, S]: 0 for a token, -inf for padding; None where nothing is padded

    @classmethod
    def from_json(cls, line):
        fields = json.loads(line)
        ids = [torch.tensor(fields[name]) for name in ("source", "decoder_input", "decoder_target")]
        padded = ids[0] == PAD
        # The decoder needs no such bias: its padding is on the right, where the causal mask hides it from every token
        # that counts, and the loss ignores the rest.
        bias = torch.zeros(padded.shape).masked_fill_(padded, -math.inf)[:, None, None, :] if padded.any() else None
        return cls(*ids, bias)

    @property
    def tokens(self):
        """Source and target tokens, without padding."""
        return int((self.source != PAD).sum() + (self.decoder_target != PAD).sum())


PRECISIONS = ("f32", "bf16", "bf16_weights")


class Training:
    """A model, its optimiser and its batches; `run` takes the next ones and comes round to the first again.

    Two ways to train in bf16, both with parameters of the optimiser in f32: `bf16` is autocast, which casts weights at
    each use; `bf16_weights` has a model in bf16 that is written anew from the optimiser's parameters after each step.
    """

    def __init__(self, config, path, learning_rate=1e-4, weight_decay=0.0, label_smoothing=0.1, clip_norm=None,
                 precision="f32", seed=0):
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision}")
        torch.manual_seed(seed)
        with open(path) as lines:
            self.batches = [Batch.from_json(line) for line in lines if line.strip()]
        if not self.batches:
            raise ValueError(f"no batches in {path}")
        longest = max(max(batch.source.shape[1], batch.decoder_input.shape[1]) for batch in self.batches)
        self.model = Translator(config, max_length=longest)
        self.weights = self.parameters = list(self.model.parameters())
        if precision == "bf16_weights":
            self.parameters = [weight.detach().clone() for weight in self.weights]
            for parameter in self.parameters:
                parameter.grad = torch.empty_like(parameter)
            self.model.bfloat16()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate, betas=(0.9, 0.98), eps=1e-9,
                                           weight_decay=weight_decay, fused=True)
        self.label_smoothing, self.clip_norm, self.precision = label_smoothing, clip_norm, precision
        self.next = 0

    def loss(self, batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(batch.source, batch.decoder_input, batch.source_bias)
        return F.cross_entropy(logits.flatten(0, 1).float(), batch.decoder_target.flatten(), ignore_index=PAD,
                               label_smoothing=self.label_smoothing)

    def step(self, batch):
        loss = self.loss(batch)
        loss.backward()
        if self.parameters is not self.weights:
            torch._foreach_copy_([p.grad for p in self.parameters], [weight.grad for weight in self.weights])
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
        self.optimizer.step()
        if self.parameters is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.parameters)
        self.model.zero_grad()
        return loss.item()

    def warm_up(self, steps):
        """Steps on the largest batch: they make the optimiser's state and grow the heap to its final size."""
        largest = max(self.batches, key=lambda batch: batch.decoder_target.numel() + batch.source.numel())
        for _ in range(steps):
            self.step(largest)

    def run(self, steps):
        first, durations, tokens, loss = self.next, [], 0, math.nan
        for _ in range(steps):
            batch = self.batches[self.next]
            start = time.perf_counter_ns()
            loss = self.step(batch)
            durations.append(time.perf_counter_ns() - start)
            tokens += batch.tokens
            self.next = (self.next + 1) % len(self.batches)
        return {"first_batch": first, "batch_ns": durations, "tokens": tokens, "loss": loss}
