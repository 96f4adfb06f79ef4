"""ONNX Runtime as a peer, for attention in f32 without gradients: the protocol of torch_peer.py, less of it.

Its operator MultiHeadAttention takes [B, T, H * D], and computes in blocks as FlashAttention does.
"""

import argparse
import json
import os
import sys

from onnx import TensorProto, helper
from timing import Timer

# ONNX Runtime has an allocator of its own.


def prepare(request, threads):
    heads, dim, queries = request["heads"], request["head_dim"], request["queries"]
    keys = request.get("keys", queries)
    if request.get("dtype", "f32") != "f32" or request.get("backward"):
        raise ValueError("this peer computes in f32, and no gradients")
    node = helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["out"], domain="com.microsoft", num_heads=heads,
                            unidirectional=int(request.get("causal", False)))
    info = lambda name, count: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, heads * dim])
    graph = helper.make_graph([node], "attention", [info("q", queries), info("k", keys), info("v", keys)],
                              [info("out", queries)])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0).standard_normal
    operands = {name: draw((1, count, heads * dim), dtype=np.float32)
                for name, count in (("q", queries), ("k", keys), ("v", keys))}
    return lambda: session.run(None, operands)


def serve(threads, requests, answers):
    prepared = {}
    for line in requests:
        try:
            request = json.loads(line)
            seconds = request.pop("seconds", 0.2)
            if request["op"] == "hello":
                answer = {"peer": "onnxruntime", "version": onnxruntime.__version__, "ops": ["attention"]}
            elif request["op"] == "attention":
                key = json.dumps(request, sort_keys=True)
                if key not in prepared:
                    prepared.clear()
                    prepared[key] = prepare(request, threads)
                answer = Timer(seconds).measure(prepared[key])
            else:
                raise ValueError(f"no op {request['op']}; there are hello and attention")
            answer = {"ok": True, **answer}
        except Exception as error:
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="ONNX Runtime measured over a line protocol; see README.md")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    # Whatever the library prints goes to stderr: stdout carries answers only.
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import numpy as np
    import onnxruntime

    serve(arguments.threads, sys.stdin, ANSWERS)
