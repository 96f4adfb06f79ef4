"""PyTorch as a peer: reads one JSON request per line on stdin, answers with one JSON line on stdout.

A benchmark keeps this process open and asks it for short slices between its own, so that both engines meet the same
machine. README.md describes every request.
"""

import argparse
import json
import math
import os
import platform
import resource
import statistics
import sys
import traceback
from collections import OrderedDict
from pathlib import Path

MKL_DISPATCH = Path(__file__).resolve().parent / ".venv" / "mkl_dispatch.so"

# glibc gives large blocks back to the kernel as soon as they are freed, and the next result then pays a page fault for
# every 4 KiB. These keep freed memory in the process, on huge pages where the kernel allows it.
TUNED_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}

# What is prepared for a request stays for the next one like it: its memory is warm then.
PREPARED_LIMIT = 6


def restart_with(environment):
    """These variables are read when the process starts: set them and start again, once."""
    if any(os.environ.get(name) != value for name, value in environment.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **environment})


def parse_arguments():
    parser = argparse.ArgumentParser(description="PyTorch measured over a line protocol; see README.md")
    parser.add_argument("--threads", type=int, default=2, help="threads of a request that names none")
    parser.add_argument("--tuned-allocator", action="store_true", help="keep freed memory in the process (glibc)")
    parser.add_argument("--mkl-all-isa", action="store_true", help="let MKL use AVX-512 on AMD CPUs (Linux, x86-64)")
    return parser.parse_args()


def dtype_of(request):
    name = request.get("dtype", "f32")
    known = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
    if name not in known:
        raise ValueError(f"dtype must be one of {', '.join(known)}, not {name}")
    return known[name]


def normal(request, *shape):
    return torch.randn(*shape).to(dtype_of(request))


def prepare_matmul(request):
    """a: [m, k] or, transposed, [k, m]; b: [k, n] or, transposed, [n, k]; a leading axis where batch > 1."""
    m, n, k, batch = request["m"], request["n"], request["k"], request.get("batch", 1)
    transpose_a, transpose_b = request.get("transpose_a", False), request.get("transpose_b", False)
    lead = (batch,) if batch > 1 else ()
    a = normal(request, *lead, k, m).transpose(-1, -2) if transpose_a else normal(request, *lead, m, k)
    b = normal(request, *lead, n, k).transpose(-1, -2) if transpose_b else normal(request, *lead, k, n)
    kernel = request.get("kernel", "default")
    if kernel == "onednn":
        if lead or transpose_a or not transpose_b:
            raise ValueError("kernel onednn is a linear layer: batch 1, transpose_b only")
        weight = b.transpose(-1, -2)
        linear = torch.ops.mkldnn._linear_pointwise
        return lambda: linear(a, weight, None, "none", [], "")
    if kernel != "default":
        raise ValueError(f"kernel must be default or onednn, not {kernel}")
    out = torch.empty(*lead, m, n, dtype=a.dtype)
    product = torch.bmm if lead else torch.mm
    return lambda: product(a, b, out=out)


def prepare_softmax(request):
    x = normal(request, request["rows"], request["cols"])
    out = torch.empty_like(x)
    return lambda: torch.softmax(x, -1, out=out)


def prepare_layer_norm(request):
    """There is no form with a destination that does not copy: the result is fresh, and warm with --tuned-allocator."""
    x = normal(request, request["rows"], request["cols"])
    weight, bias = torch.ones(x.shape[1], dtype=x.dtype), torch.zeros(x.shape[1], dtype=x.dtype)
    return lambda: torch.layer_norm(x, x.shape[1:], weight, bias, 1e-5)


def prepare_gelu(request):
    form = request.get("form", "exact")
    if form not in ("exact", "tanh"):
        raise ValueError(f"form must be exact or tanh, not {form}")
    x = normal(request, request["len"])
    out, approximate = torch.empty_like(x), "tanh" if form == "tanh" else "none"
    # Not in place: gelu of gelu of ... runs into denormals, which take another time.
    return lambda: torch.ops.aten.gelu.out(x, approximate=approximate, out=out)


def prepare_exp(request):
    x = normal(request, request["len"])
    out = torch.empty_like(x)
    return lambda: torch.exp(x, out=out)


def prepare_add(request):
    x, y = normal(request, request["len"]), normal(request, request["len"])
    out = torch.empty_like(x)
    return lambda: torch.add(x, y, out=out)


def prepare_sum(request):
    x = normal(request, request["len"])
    return lambda: torch.sum(x)


def prepare_attention(request):
    """q: [B, H, queries, D], k and v: [B, H, keys, D]; with backward, all three gradients too."""
    batch, heads, dim = request.get("batch", 1), request["heads"], request["head_dim"]
    queries = request["queries"]
    keys, causal, backward = request.get("keys", queries), request.get("causal", False), request.get("backward", False)
    if causal and keys != queries:
        raise ValueError("causal needs as many keys as queries: PyTorch aligns the mask top-left, we bottom-right")
    q, k, v = (normal(request, batch, heads, length, dim) for length in (queries, keys, keys))
    if not backward:
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    inputs, cotangent = [x.requires_grad_() for x in (q, k, v)], torch.randn_like(q)

    def forward_backward():
        with torch.enable_grad():
            out = torch.nn.functional.scaled_dot_product_attention(*inputs, is_causal=causal)
        torch.autograd.grad(out, inputs, cotangent)

    return forward_backward


def prepare_scalar_add(request):
    """A chain of scalar additions: what one operation costs when there is nothing to compute."""
    mode, chain = request.get("mode", "forward_backward"), request.get("chain", 1000)
    if mode not in ("no_grad", "forward", "forward_backward"):
        raise ValueError(f"mode must be no_grad, forward or forward_backward, not {mode}")
    one = torch.tensor(1.0)
    leaf = torch.tensor(1.0, requires_grad=mode != "no_grad")

    def run():
        with torch.set_grad_enabled(mode != "no_grad"):
            y = leaf
            for _ in range(chain):
                y = y + one
        if mode == "forward_backward":
            y.backward()
            leaf.grad = None

    return run


PREPARE = {
    "matmul": prepare_matmul,
    "softmax": prepare_softmax,
    "layer_norm": prepare_layer_norm,
    "gelu": prepare_gelu,
    "exp": prepare_exp,
    "add": prepare_add,
    "sum": prepare_sum,
    "attention": prepare_attention,
    "scalar_add": prepare_scalar_add,
}

# Methods of the peer.
SESSION = ["train_open", "train_step", "decode_open", "decode_run", "memory", "attention_errors"]


def given(request, *names):
    """The fields among these that a request has; the others keep their defaults."""
    return {name: request[name] for name in names if name in request}


def parameters_of(model):
    return sum(p.numel() for p in model.parameters())


class Peer:
    def __init__(self, arguments):
        self.arguments = arguments
        self.prepared = OrderedDict()
        self.training = self.decoding = None

    def answer(self, request):
        torch.set_num_threads(request.get("threads", self.arguments.threads))
        op = request["op"]
        if op == "hello":
            return self.hello()
        if op in SESSION:
            return getattr(self, op)(request)
        if op in PREPARE:
            return self.measure(op, request)
        known = ", ".join(["hello", *PREPARE, *SESSION])
        raise ValueError(f"no op {op}; there are {known}")

    def hello(self):
        return {
            "peer": "torch",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "isa": torch.backends.cpu.get_cpu_capability(),
            "tuned_allocator": self.arguments.tuned_allocator,
            "mkl_all_isa": self.arguments.mkl_all_isa,
            "ops": [*PREPARE, *SESSION],
        }

    def measure(self, op, request):
        key = json.dumps({name: value for name, value in request.items() if name not in ("id", "seconds", "threads")},
                         sort_keys=True)
        if key not in self.prepared:
            torch.manual_seed(0)
            self.prepared[key] = PREPARE[op](request)
        self.prepared.move_to_end(key)
        while len(self.prepared) > PREPARED_LIMIT:
            self.prepared.popitem(last=False)
        with torch.no_grad():
            times = Timer(request.get("seconds", 0.2)).measure(self.prepared[key])
        if op == "scalar_add":
            chain = request.get("chain", 1000)
            times["median_ns"], times["best_ns"] = times["median_ns"] / chain, times["best_ns"] / chain
        return times

    def train_open(self, request):
        self.training = None  # the old model's memory goes first
        options = ("learning_rate", "weight_decay", "label_smoothing", "clip_norm", "precision", "seed")
        training = Training(Config(**given(request, *Config.__annotations__)), request["batches"],
                            **given(request, *options))
        training.warm_up(request.get("warm_up", 2))
        self.training = training
        return {"parameters": parameters_of(training.model), "batches": len(training.batches)}

    def train_step(self, request):
        if self.training is None:
            raise ValueError("train_step before train_open")
        result = self.training.run(request.get("steps", 1))
        durations = result["batch_ns"]
        result["ms_per_batch"] = statistics.fmean(durations) / 1e6
        result["median_ns"], result["best_ns"] = statistics.median(durations), min(durations)
        result["runs"] = len(durations)
        if not math.isfinite(result["loss"]):
            result["loss"] = None  # JSON has no word for it
        return result

    def decode_open(self, request):
        self.decoding = None
        self.decoding = Decoding(Config(**given(request, *Config.__annotations__)), request["batch"],
                                 request["source_length"], **given(request, "kernel", "seed"))
        return {"parameters": parameters_of(self.decoding.model)}

    def decode_run(self, request):
        if self.decoding is None:
            raise ValueError("decode_run before decode_open")
        return self.decoding.run(request["steps"], **given(request, "cached", "beams", "runs", "warm_up"))

    def memory(self, request):
        """The greatest resident memory of this process so far."""
        return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}

    def attention_errors(self, request):
        return attention_errors(request)

    def serve(self, requests, answers):
        for line in requests:
            if not line.strip():
                continue
            request = None
            try:
                request = json.loads(line)
                answer = {"ok": True, **self.answer(request)}
            except Exception as error:
                traceback.print_exc()
                answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
            if isinstance(request, dict) and "id" in request:
                answer["id"] = request["id"]
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def main(arguments):
    # Whatever a library prints goes to stderr: stdout carries answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    Peer(arguments).serve(sys.stdin, answers)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()
    ENVIRONMENT = {}
    if ARGUMENTS.tuned_allocator:
        ENVIRONMENT |= TUNED_ALLOCATOR
    if ARGUMENTS.mkl_all_isa:
        if not MKL_DISPATCH.exists():
            sys.exit(f"{MKL_DISPATCH} is missing: run setup with a C compiler on Linux x86-64")
        ENVIRONMENT["LD_PRELOAD"] = str(MKL_DISPATCH)
    restart_with(ENVIRONMENT)

import torch  # after the restart, so that its seconds are paid once

from accuracy import attention_errors
from decoding import Decoding
from timing import Timer
from translator import Config, Training

if __name__ == "__main__":
    main(ARGUMENTS)
