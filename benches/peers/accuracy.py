"""How far attention in f32 is from attention in f64: PyTorch's, and whatever a file holds."""

import math

import numpy
import torch

RESULTS = ["out", "dq", "dk", "dv"]


def dense(q, k, v, dout, causal):
    """Output and gradients of one head in double precision, from the definition: `[T, D]` each."""
    q, k, v, dout = (x.double() for x in (q, k, v, dout))
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if causal:
        scores.masked_fill_(torch.ones_like(scores, dtype=torch.bool).triu_(1), -math.inf)
    weights = torch.softmax(scores, -1)
    dweights = dout @ v.T
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True)) / math.sqrt(q.shape[-1])
    return {"out": weights @ v, "dq": dscores @ k, "dk": dscores.T @ q, "dv": weights.T @ dout}


def pytorch(q, k, v, dout, causal):
    """What PyTorch computes in the operands' dtype, with the kernel that it chooses."""
    inputs = [x.clone().requires_grad_() for x in (q, k, v)]
    with torch.enable_grad():
        out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)
    return dict(zip(RESULTS, [out.detach(), *torch.autograd.grad(out, inputs, dout)]))


class Errors:
    """Of one result, over all heads."""

    def __init__(self):
        self.greatest = self.squares = self.of_reference = self.scale = 0.0

    def add(self, result, reference):
        difference = (result.double() - reference).abs()
        self.greatest = max(self.greatest, difference.max().item())
        self.scale = max(self.scale, reference.abs().max().item())
        self.squares += difference.square().sum().item()
        self.of_reference += reference.square().sum().item()

    def answer(self):
        """Root mean square, relative to the reference's, and the greatest, relative to its greatest number."""
        return {"rms": math.sqrt(self.squares / self.of_reference), "greatest": self.greatest / self.scale}


def attention_errors(request):
    """`file`: an npz with q, k, v and dout, `[1, H, T, D]`, and candidates' results as `name/out`, `name/dq` and so on."""
    with numpy.load(request["file"]) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    operands = [arrays.pop(name) for name in ("q", "k", "v", "dout")]
    causal = request.get("causal", False)
    candidates = {"pytorch": pytorch(*operands, causal)}
    for name, array in arrays.items():
        candidate, result = name.split("/")
        candidates.setdefault(candidate, {})[result] = array
    errors = {name: {result: Errors() for result in RESULTS} for name in candidates}
    for head in range(operands[0].shape[1]):
        reference = dense(*(x[0, head] for x in operands), causal)
        for name, results in candidates.items():
            for result in RESULTS:
                errors[name][result].add(results[result][0, head], reference[result])
    return {"errors": {name: {result: e.answer() for result, e in of.items()} for name, of in errors.items()}}
