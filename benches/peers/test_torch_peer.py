"""`.venv/bin/python -m unittest` in this folder: the protocol answers, and the translator computes what it should."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch

from translator import PAD, Batch, Config, Training, Translator

HERE = Path(__file__).resolve().parent
TINY = {"d_model": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "ff": 32, "vocab": 20}
PADDED = {"source": [[3, 4, 5, PAD], [6, 7, 8, 9]], "decoder_input": [[1, 4, PAD], [1, 5, 6]],
          "decoder_target": [[4, 2, PAD], [5, 6, 2]]}
FULL = {"source": [[3, 4, 5]], "decoder_input": [[1, 4]], "decoder_target": [[4, 2]]}

TIMED = [
    *({"op": "matmul", "m": 8, "n": 9, "k": 10, "transpose_a": a, "transpose_b": b} for a in (0, 1) for b in (0, 1)),
    {"op": "matmul", "m": 8, "n": 9, "k": 10, "batch": 3, "transpose_b": True},
    {"op": "matmul", "m": 8, "n": 9, "k": 10, "dtype": "bf16"},
    {"op": "softmax", "rows": 4, "cols": 5},
    {"op": "layer_norm", "rows": 4, "cols": 5},
    {"op": "gelu", "len": 7},
    {"op": "gelu", "len": 7, "form": "tanh"},
    {"op": "exp", "len": 7},
    {"op": "add", "len": 7},
    {"op": "sum", "len": 7},
    {"op": "attention", "heads": 2, "queries": 6, "head_dim": 4},
    {"op": "attention", "heads": 2, "queries": 6, "head_dim": 4, "causal": True, "backward": True},
    *({"op": "scalar_add", "chain": 10, "mode": mode} for mode in ("no_grad", "forward", "forward_backward")),
]


def talk(requests, *options):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    peer = subprocess.run([sys.executable, HERE / "torch_peer.py", *options], input=lines, capture_output=True,
                          text=True, check=True)
    return [json.loads(line) for line in peer.stdout.splitlines()]


def batches_file(*batches):
    file = tempfile.NamedTemporaryFile("w", suffix=".jsonl")
    file.write("".join(json.dumps(batch) + "\n" for batch in batches))
    file.flush()
    return file


class Protocol(unittest.TestCase):
    def test_every_operation_answers_with_times(self):
        answers = talk([{**request, "seconds": 0.001, "id": i} for i, request in enumerate(TIMED)])
        self.assertEqual([answer["id"] for answer in answers], list(range(len(TIMED))))
        for request, answer in zip(TIMED, answers):
            with self.subTest(request):
                self.assertTrue(answer["ok"], answer)
                self.assertGreater(answer["best_ns"], 0)
                self.assertGreaterEqual(answer["median_ns"], answer["best_ns"])
                self.assertGreaterEqual(answer["runs"], 5)

    def test_training_continues_where_it_stopped(self):
        with batches_file(FULL, PADDED, FULL) as file:
            open_, one, two, three = talk([
                {"op": "train_open", "batches": file.name, **TINY},
                *({"op": "train_step", "steps": 2} for _ in range(3)),
            ], "--tuned-allocator")
        self.assertEqual(open_["batches"], 3)
        self.assertEqual([answer["first_batch"] for answer in (one, two, three)], [0, 2, 1])
        self.assertEqual(len(one["batch_ns"]), 2)

    def test_an_error_is_an_answer_and_the_peer_goes_on(self):
        answers = talk([{"op": "fft"}, {"op": "train_step"}, {"op": "matmul", "m": 2}, {"op": "hello", "threads": 1}])
        self.assertEqual([answer["ok"] for answer in answers], [False, False, False, True])
        self.assertIn("no op fft", answers[0]["error"])
        self.assertEqual(answers[3]["threads"], 1)


class TranslatorMathematics(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.model = Translator(Config(**TINY)).eval()

    def test_padding_changes_nothing(self):
        padded, full = Batch.from_json(json.dumps(PADDED)), Batch.from_json(json.dumps(FULL))
        self.assertIsNotNone(padded.source_bias)
        self.assertIsNone(full.source_bias)
        with torch.no_grad():
            a = self.model(padded.source, padded.decoder_input, padded.source_bias)[:1, :2]
            b = self.model(full.source, full.decoder_input, full.source_bias)
        torch.testing.assert_close(a, b)

    def test_the_decoder_does_not_look_ahead(self):
        source = torch.tensor([[3, 4, 5]])
        with torch.no_grad():
            a = self.model(source, torch.tensor([[1, 4, 5]]), None)
            b = self.model(source, torch.tensor([[1, 4, 9]]), None)
        torch.testing.assert_close(a[:, :2], b[:, :2])
        self.assertFalse(torch.allclose(a[:, 2], b[:, 2]))

    def test_the_loss_falls(self):
        with batches_file(FULL, PADDED) as file:
            training = Training(Config(**TINY, dropout=0.1), file.name, learning_rate=1e-2, clip_norm=1.0)
            first = training.run(2)["loss"]
            last = training.run(100)["loss"]
        self.assertLess(last, 0.6 * first)


if __name__ == "__main__":
    unittest.main()
