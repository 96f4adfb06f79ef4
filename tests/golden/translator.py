"""Golden runs of a whole translator: `translator_pre.safetensors` and `translator_post.safetensors`.

The task: read a sentence backwards without its first token, each token moved on by three. The initial parameters have
seen it already, so that the twenty recorded steps end at a model whose translations are worth decoding.
"""

import json
import math

import torch
import torch.nn.functional as F

from beam_search import beam_search, greedy
from transformer import Config, decode, encode

SEED = 20_260_102
PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 3
BATCHES, SENTENCES, LONGEST = 5, 6, 8
STEPS, WARM_UP, PEAK, CLIP, SMOOTHING = 20, 8, 5e-3, 1.0, 0.1
ADAMW = {"betas": (0.9, 0.98), "eps": 1e-9, "weight_decay": 0.01}
# What the initial parameters have behind them: plain Adam.
BEFORE = {"pre": {"steps": 80, "lr": 1e-3}, "post": {"steps": 60, "lr": 3e-3}}
BEAMS, LIMIT, ALPHAS = 4, 12, (0.0, 0.6, 1.0)


def padded(rows):
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def make_batches(config, generator):
    words = config.vocabulary - FIRST_WORD
    batches = []
    for _ in range(BATCHES):
        lengths = torch.randint(3, LONGEST + 1, [SENTENCES], generator=generator)
        lengths[torch.randint(SENTENCES, [1], generator=generator)] = LONGEST
        sources = [torch.randint(words, [int(n)], generator=generator) for n in lengths]
        targets = [((source.flip(0)[:-1] + 3) % words + FIRST_WORD).tolist() for source in sources]
        sources = [(source + FIRST_WORD).tolist() + [EOS] for source in sources]
        batches.append({
            "source": padded(sources),
            "source_lengths": torch.tensor([len(row) for row in sources]),
            "decoder_input": padded([[BOS, *row] for row in targets]),
            "decoder_target": padded([[*row, EOS] for row in targets]),
        })
    return batches


def random_parameters(config, generator):
    """Xavier's deviations, and nothing exactly zero or one where a mistake could hide."""
    parameters = {}
    for path, shape in config.shapes().items():
        values = torch.randn(shape, generator=generator)
        if path == "embedding.weight":
            parameters[path] = values / math.sqrt(config.width)
        elif len(shape) == 2:
            parameters[path] = values * math.sqrt(2 / sum(shape))
        else:
            parameters[path] = 0.05 * values + (1.0 if path.endswith("norm.weight") else 0.0)
    return parameters


def logits_of(p, config, batch):
    memory, mask, maps = encode(p, config, batch["source"], batch["source_lengths"])
    logits, more = decode(p, config, batch["decoder_input"], memory, mask)
    return logits, maps | more


def loss_of(p, config, batch):
    """Mean over the targets that are no padding, in nats."""
    logits, _ = logits_of(p, config, batch)
    return F.cross_entropy(logits.flatten(0, 1), batch["decoder_target"].flatten(), ignore_index=PAD,
                           label_smoothing=SMOOTHING)


@torch.no_grad()
def losses_of(p, config, batches):
    return torch.stack([loss_of(p, config, batch) for batch in batches])


def before(p, config, batches):
    """The initial parameters: single precision, so that they take half of the room and none of the exactness."""
    steps, rate = BEFORE["pre" if config.pre_norm else "post"].values()
    optimizer = torch.optim.Adam(list(p.values()), lr=rate, foreach=False)
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(p, config, batches[step % BATCHES]).backward()
        optimizer.step()
    return {path: value.detach().float() for path, value in p.items()}


def train(p, config, batches):
    """Twenty steps of AdamW; returns what each of them saw."""
    optimizer = torch.optim.AdamW(list(p.values()), lr=0.0, foreach=False, **ADAMW)
    seen = {"loss": [], "gradient_norm": [], "learning_rate": []}
    for step in range(1, STEPS + 1):
        rate = PEAK * min(step / WARM_UP, math.sqrt(WARM_UP / step))
        optimizer.zero_grad()
        loss = loss_of(p, config, batches[(step - 1) % BATCHES])
        loss.backward()
        norm = torch.cat([value.grad.flatten() for value in p.values()]).norm().item()
        for value in p.values():
            value.grad.mul_(min(1.0, CLIP / norm))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, value in (("loss", loss.item()), ("gradient_norm", norm), ("learning_rate", rate)):
            seen[name].append(value)
    return {name: torch.tensor(values) for name, values in seen.items()}


def decoding(p, config, batches):
    """Greedy and beam search on the sentences of the first two batches, in order."""
    sentences = [(source[:length], length) for batch in batches[:2]
                 for source, length in zip(batch["source"], batch["source_lengths"])]

    def scorer(source, length):
        memory, mask, _ = encode(p, config, source[None], length[None])

        def log_probabilities(written):
            """Of the token after each of these prefixes: lists of equal length -> [N, V]."""
            n = len(written)
            logits, _ = decode(p, config, torch.tensor([[BOS, *prefix] for prefix in written]),
                               memory.expand(n, -1, -1), mask.expand(n, -1, -1, -1))
            return logits[:, -1].log_softmax(-1)

        return log_probabilities

    scorers = [scorer(*sentence) for sentence in sentences]

    def row(tokens):
        assert PAD not in tokens and BOS not in tokens and EOS not in tokens
        return tokens + [PAD] * (LIMIT - len(tokens))

    results = [greedy(log_probabilities, EOS, LIMIT) for log_probabilities in scorers]
    found = {"greedy/tokens": torch.tensor([row(tokens) for tokens, _ in results]),
             "greedy/lengths": torch.tensor([len(tokens) for tokens, _ in results]),
             "greedy/finished": torch.tensor([finished for _, finished in results])}
    for alpha in ALPHAS:
        results = [beam_search(log_probabilities, EOS, BEAMS, LIMIT, alpha) for log_probabilities in scorers]
        name = f"beam/{alpha:g}"
        found[f"{name}/tokens"] = torch.tensor([[row(h.words) for h in best] for best in results])
        found[f"{name}/lengths"] = torch.tensor([[len(h.words) for h in best] for best in results])
        found[f"{name}/scores"] = torch.tensor([[h.score for h in best] for best in results])
        found[f"{name}/finished"] = torch.tensor([[h.finished for h in best] for best in results])
    return found


def make(pre_norm):
    config = Config(vocabulary=37, width=32, heads=4, layers=2, hidden=64, positions=32, pre_norm=pre_norm)
    generator = torch.Generator().manual_seed(SEED + pre_norm)
    batches = make_batches(config, generator)
    p = {path: value.requires_grad_() for path, value in random_parameters(config, generator).items()}
    initial = before(p, config, batches)
    p = {path: value.double().requires_grad_() for path, value in initial.items()}
    seen = {"batch_loss/initial": losses_of(p, config, batches)}
    seen |= train(p, config, batches)
    seen["batch_loss/final"] = losses_of(p, config, batches)
    first, last = seen["batch_loss/initial"].mean(), seen["batch_loss/final"].mean()
    assert last < 0.7 * first, f"the loss fell from {first} to {last} only"

    with torch.inference_mode():
        logits, maps = logits_of(p, config, batches[0])
        found = decoding(p, config, batches)
    check_variety(found, batches)

    tensors = {f"initial/{path}": value for path, value in initial.items()}
    tensors |= {f"final/{path}": value for path, value in p.items()}
    tensors |= {f"batch/{i}/{name}": value for i, batch in enumerate(batches) for name, value in batch.items()}
    tensors |= {f"maps/{place}": value.float() for place, value in maps.items()}
    tensors |= {**seen, "logits": logits, **found}
    training = {"steps": STEPS, "batches": BATCHES, "peak": PEAK, "warmup": WARM_UP, "clip": CLIP, **ADAMW,
                "label_smoothing": SMOOTHING, "ignore_index": PAD}
    metadata = {"config": vars(config), "training": training, "search": {"beams": BEAMS, "limit": LIMIT},
                "tokens": {"pad": PAD, "bos": BOS, "eos": EOS}}
    return tensors, {"seed": str(SEED), **{name: json.dumps(value, sort_keys=True) for name, value in metadata.items()}}


def check_variety(found, batches):
    """Translations that are all alike, or lists that no penalty reorders, would test little."""
    assert len({tuple(row) for row in found["greedy/tokens"].tolist()}) >= 10
    lists = [found[f"beam/{alpha:g}/tokens"] for alpha in ALPHAS]
    assert any((lists[0][:, i] != lists[2][:, i]).any() for i in range(BEAMS))
    assert (lists[0][:, 0] != lists[2][:, 0]).any(), "no penalty changes the best translation"
    assert any((best[:, 0] != found["greedy/tokens"]).any() for best in lists), "no search improves on greedy"
