"""Makes the golden files of this folder: `python make.py [folder]`. README.md says what they hold."""

import json
import sys
from pathlib import Path

import torch

import modules
import translator

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}


def write_safetensors(path, tensors, metadata):
    """Length of the header in eight bytes, the header in JSON, then the values; little-endian throughout."""
    header, offset = {"__metadata__": dict(sorted(metadata.items()))}, 0
    tensors = {name: tensor.detach().contiguous() for name, tensor in sorted(tensors.items())}
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # values start at a multiple of their size
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.numpy().tobytes())


def main(folder):
    # One thread and one algorithm: sums are taken in the same order every time.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    made = {
        "modules": modules.make,
        "translator_pre": lambda: translator.make(pre_norm=True),
        "translator_post": lambda: translator.make(pre_norm=False),
    }
    for name, make in made.items():
        tensors, metadata = make()
        path = folder / f"{name}.safetensors"
        write_safetensors(path, tensors, {"torch": torch.__version__.split("+")[0], **metadata})
        print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
