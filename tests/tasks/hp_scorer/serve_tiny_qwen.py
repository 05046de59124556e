"""`transformers serve` for one Qwen3-VL on loopback: python -m tests.tasks.hp_scorer.serve_tiny_qwen FOLDER PORT."""

import sys

from transformers import AutoProcessor
from transformers.cli.serve import Serve

from tasks.hp_scorer.qwen_processor import load_processor

if __name__ == "__main__":
    folder, port = sys.argv[1:]
    # The server's own way asks for torchvision.
    AutoProcessor.from_pretrained = lambda model, **_: load_processor(model)
    Serve(force_model=folder, host="127.0.0.1", port=int(port), device="cpu", dtype="float32")
