"""`.venv/bin/python -m unittest` in this folder: the protocol answers, and the translator computes what it should."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy
import torch

from decoding import BOS, EOS, KERNELS, Decoding
from translator import PAD, PRECISIONS, Batch, Config, Training, Translator

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

    def test_decoding_answers_with_times_and_tokens(self):
        open_, one, four = talk([
            {"op": "decode_open", "batch": 3, "source_length": 5, "tied": False, **TINY},
            {"op": "decode_run", "steps": 6},
            {"op": "decode_run", "steps": 6, "cached": False, "beams": 4, "runs": 2, "warm_up": 0},
        ])
        self.assertGreater(open_["parameters"], 0)
        for answer in (one, four):
            self.assertGreaterEqual(answer["median_ns"], answer["best_ns"])
            self.assertEqual([len(tokens) for tokens in answer["tokens"]], [6, 6, 6])

    def test_attention_errors_are_those_of_f32(self):
        generator = numpy.random.default_rng(0)
        arrays = {name: generator.standard_normal((1, 2, 9, 4), dtype="f4") for name in ("q", "k", "v", "dout")}
        arrays |= {f"zeros/{result}": numpy.zeros((1, 2, 9, 4), "f4") for result in ("out", "dq", "dk", "dv")}
        for causal in (False, True):
            with tempfile.NamedTemporaryFile(suffix=".npz") as file:
                numpy.savez(file, **arrays)
                file.flush()
                [answer] = talk([{"op": "attention_errors", "file": file.name, "causal": causal}])
            self.assertTrue(answer["ok"], answer)
            for result, error in answer["errors"]["pytorch"].items():
                self.assertTrue(0 < error["rms"] < 1e-6, f"{result}: {error}")
            for result, error in answer["errors"]["zeros"].items():
                self.assertAlmostEqual(error["rms"], 1.0, msg=result)
                self.assertAlmostEqual(error["greatest"], 1.0, msg=result)

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
        for tied, precision in ((True, "f32"), *((False, precision) for precision in PRECISIONS)):
            with self.subTest(tied=tied, precision=precision), batches_file(FULL, PADDED) as file:
                training = Training(Config(**TINY, dropout=0.1, tied=tied), file.name, learning_rate=1e-2,
                                    clip_norm=1.0, precision=precision)
                first = training.run(2)["loss"]
                last = training.run(100)["loss"]
                self.assertLess(last, 0.6 * first)

    def test_untied_has_two_more_matrices(self):
        untied = Translator(Config(**TINY, tied=False))
        numbers = [sum(p.numel() for p in model.parameters()) for model in (self.model, untied)]
        self.assertEqual(numbers[1] - numbers[0], 2 * TINY["vocab"] * TINY["d_model"])


class DecodingMathematics(unittest.TestCase):
    STEPS = 8

    def decoding(self, kernel="default"):
        return Decoding(Config(**TINY, tied=False), batch=3, source_length=5, kernel=kernel)

    def test_greedy_is_what_the_model_says(self):
        decoding = self.decoding()
        written = torch.full([3, 1], BOS)
        with torch.no_grad():
            for _ in range(self.STEPS):
                logits = decoding.model(decoding.source, written, None)[:, -1]
                logits[:, EOS] = -torch.inf
                written = torch.cat([written, logits.argmax(-1, keepdim=True)], dim=1)
        self.assertEqual(decoding.run(self.STEPS)["tokens"], written[:, 1:].tolist())

    def test_cache_and_kernel_change_nothing(self):
        for beams in (1, 4):
            plain = self.decoding().run(self.STEPS, cached=False, beams=beams)["tokens"]
            for kernel in KERNELS:
                with self.subTest(beams=beams, kernel=kernel):
                    self.assertEqual(self.decoding(kernel).run(self.STEPS, beams=beams)["tokens"], plain)

    def test_as_many_beams_as_tokens_find_the_best_pair(self):
        decoding, vocab = self.decoding(), TINY["vocab"]
        pairs = torch.cartesian_prod(torch.arange(vocab), torch.arange(vocab))  # [V * V, 2]
        written = torch.cat([torch.full([len(pairs), 1], BOS), pairs[:, :1]], dim=1)
        best = []
        with torch.no_grad():
            for source in decoding.source:
                logits = decoding.model(source.expand(len(pairs), -1), written, None)
                logits[..., EOS] = -torch.inf
                scores = logits.log_softmax(-1).gather(2, pairs[:, :, None]).sum((1, 2))
                best.append(pairs[scores.argmax()].tolist())
        self.assertEqual(decoding.run(2, beams=vocab)["tokens"], best)


if __name__ == "__main__":
    unittest.main()
