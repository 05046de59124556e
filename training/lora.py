"""The adapter: LoRA on the editor's transformer, in float32, in the file layout of diffusers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from training.config import LORA_TARGETS, FlowGrpoConfig

Transformer = Any
"""A model of diffusers that takes adapters; its mixins are unknown to type checkers."""
ADAPTER = "default"
"""The name under which an adapter is on a transformer."""
WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


def add_adapter(
    transformer: Transformer, config: FlowGrpoConfig, seed: int, targets: Sequence[str] = LORA_TARGETS
) -> list[nn.Parameter]:
    """Freeze the transformer and put a fresh adapter on it, which changes nothing until it is trained.

    Args:
        targets: the editor's own choice of layers, where the configuration names none.

    Returns: the adapter's parameters, float32, in a fixed order.
    """
    transformer.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(
            LoraConfig(
                r=config.lora_rank,
                lora_alpha=config.lora_alpha,
                init_lora_weights="gaussian",
                target_modules=list(config.lora_targets or targets),
            )
        )
    for layer in transformer.modules():
        if hasattr(layer, "cast_input_dtype_enabled"):
            # Autocast brings inputs and adapter together; peft would first copy every input to float32, and keep it.
            layer.cast_input_dtype_enabled = False
    parameters = adapter_parameters(transformer)
    for parameter in parameters:
        # bfloat16 master weights lose updates of 1e-4.
        parameter.data = parameter.data.float()
    return parameters


def adapter_parameters(transformer: Transformer) -> list[nn.Parameter]:
    """The adapter's parameters in a fixed order."""
    return [parameter for name, parameter in transformer.named_parameters() if "lora_" in name]


@contextmanager
def reference(transformer: Transformer) -> Iterator[None]:
    """Within this block the transformer is the reference: without its adapter."""
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def adapter_state(transformer: Transformer) -> dict[str, Tensor]:
    """The adapter's tensors by name, on the CPU."""
    return {name: value.detach().cpu().contiguous() for name, value in get_peft_model_state_dict(transformer).items()}


def named_like_adapter(transformer: Transformer, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors in the order of `adapter_parameters`, such as their running average, by the names of `adapter_state`."""
    names = [name for name, _ in transformer.named_parameters() if "lora_" in name]
    named = {
        name.replace(f".{ADAPTER}.", "."): value.detach().cpu().contiguous()
        for name, value in zip(names, tensors, strict=True)
    }
    assert named.keys() == adapter_state(transformer).keys()
    return named


def adapter_bytes(transformer: Transformer, state: dict[str, Tensor]) -> bytes:
    """The adapter as the file `pytorch_lora_weights.safetensors` of diffusers; `pipe.load_lora_weights` reads it.

    The metadata goes with it: without, a reader takes alpha for rank and runs at half strength, silently.
    """
    from diffusers import QwenImageEditPlusPipeline  # takes seconds to import; only saving needs it

    metadata = transformer.peft_config[ADAPTER].to_dict()
    with tempfile.TemporaryDirectory() as folder:
        QwenImageEditPlusPipeline.save_lora_weights(
            save_directory=folder,
            transformer_lora_layers=state,
            transformer_lora_adapter_metadata={
                name: sorted(value) if isinstance(value, set) else value for name, value in metadata.items()
            },
        )
        return _with_sorted_header((Path(folder) / WEIGHTS_FILE).read_bytes())


def _with_sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys in order: the library writes them in a new order every time.

    Equal adapters then are equal files, and files are named by their content.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def load_adapter(transformer: Transformer, data: bytes) -> None:
    """Put a saved adapter on a transformer that has none; its weights then act at once."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / WEIGHTS_FILE).write_bytes(data)
        transformer.load_lora_adapter(folder, weight_name=WEIGHTS_FILE, prefix="transformer")
