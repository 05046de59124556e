"""How a transformer lies on its devices: one process or many, a base in one piece or shared, compiled or not.

Started by torchrun there are many processes, else one, and then nothing of torch.distributed is touched. The adapter
is plain data parallel: every process keeps all of it in float32, works on its share of the groups, and the gradients
are summed. The frozen base can be sharded by FSDP2 where it does not fit on each device; it has no gradients, so all
that costs is gathering a block's weights before they are used.

Sharding ties the processes together: they must make the same passes, forward and backward, in the same order. One
process with fewer micro-batches than the others, or one that draws a picture alone, leaves the rest waiting until the
timeout. `World.largest` tells how many passes the busiest has to make.

What is done to a transformer has an order: the adapter and float8 first, which replace layers; then `prepare`, which
finds the blocks by the names of their classes; then `shard_base`, which changes those.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from training.lora import Transformer, adapter_parameters

Item = TypeVar("Item")
TIMEOUT = timedelta(hours=1)
"""Processes wait for one another this long: judges answer at different speeds, and torch's ten minutes end a run."""
RECOMPILE_LIMIT = 64
"""Versions of a compiled block that are kept. Torch keeps 8, then goes on uncompiled after one warning, and 8 are too
few: with and without gradient, with and without adapter, the first block (whose input needs no gradient) and the
others each have their own, and again where shapes vary."""
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, as one of them sees it."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Of this process."""

    @classmethod
    def from_environment(cls, timeout: timedelta = TIMEOUT) -> World:
        """Join the processes that torchrun started, by NCCL on GPUs and by gloo on CPUs; else be alone.

        Raises: ValueError where only some of torchrun's variables are set.
        """
        on_gpu = torch.cuda.is_available()
        found = [name for name in _TORCHRUN if name in os.environ]
        if "RANK" not in found and "WORLD_SIZE" not in found:
            return cls(device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu"))
        if missing := sorted(set(_TORCHRUN) - set(found)):
            raise ValueError(f"{', '.join(found)} are set, {', '.join(missing)} are not: start with torchrun, or unset")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
        if on_gpu:
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timeout, device_id=device if on_gpu else None)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave, unless an error is on its way out.

        The others may then be in the middle of something, and to take leave of them would be to wait. The process
        ends, and torchrun ends the others.
        """
        if dist.is_initialized() and sys.exception() is None:
            dist.destroy_process_group()

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part of this process: neighbours, as many for each. Raises: ValueError where that cannot be."""
        each, rest = divmod(len(items), self.size)
        if rest:
            lower, higher = each * self.size, (each + 1) * self.size
            raise ValueError(
                f"{len(items)} groups cannot be shared evenly by {self.size} processes: set groups to "
                f"{f'{lower} or ' if lower else ''}{higher}, or start a number of processes that divides {len(items)}"
            )
        return items[self.rank * each : (self.rank + 1) * each]

    def sum_gradients(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of all processes added up, float32, the same to the bit in each.

        Each process gives its part of one mean (its loss divided by the samples of all), so nothing is divided here.
        One buffer in a fixed order: the same run has the same rounding again. Another number of processes adds in
        another order, which is all that it changes.
        """
        if self.size == 1:
            return list(gradients)
        flat = torch.cat([gradient.detach().flatten().float() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]

    def broadcast_parameters(self, parameters: Sequence[Tensor]) -> None:
        """Give every process the main one's values, in place."""
        if self.size > 1:
            for parameter in parameters:
                dist.broadcast(parameter.detach(), src=0)

    def gather_objects(self, item: Item) -> list[Item]:
        """Everybody's item in order of rank, in every process. They are pickled between our own processes only."""
        if self.size == 1:
            return [item]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, item)
        return found

    def largest(self, count: int) -> int:
        """The largest of everybody's counts."""
        return max(self.gather_objects(count))


def repeated_blocks(transformer: Transformer) -> list[nn.Module]:
    """The blocks that make up a transformer, as its class in diffusers names them, in order."""
    names = getattr(transformer, "_repeated_blocks", None) or getattr(transformer, "_no_split_modules", None) or ()
    blocks = [module for module in transformer.modules() if _plain_name(module) in names]
    if not blocks:
        raise ValueError(f"{type(transformer).__name__} names no repeated blocks that are there: {sorted(names)}")
    return blocks


def prepare(
    transformer: Transformer,
    compile_blocks: bool = False,
    activation_checkpointing: bool = False,
    attention_backend: str | None = None,
    compile_backend: str = "inductor",
) -> None:
    """Make a transformer faster or smaller without changing what it computes, beyond rounding.

    Args:
        compile_blocks: compile the repeated blocks, each version once for all of them. The first pass of each kind
            then takes a minute or so. Rotary embeddings in complex numbers, as Qwen-Image has them, stay as they are
            inside. Compiled and plain round differently (1e-7 in float32), so a run is compiled from its gate on.
        activation_checkpointing: keep only what enters a block, and compute the rest again in the backward pass.
        attention_backend: a name of diffusers' `AttentionBackendName`, such as `flash` or `_native_cudnn`; None keeps
            torch's choice. Those that take no mask fail where texts are padded.
        compile_backend: of `torch.compile`.

    Raises: ValueError for an unknown backend or one whose package is missing, or where the model has no such switch.
    """
    if attention_backend is not None:
        if "sage" in attention_backend:
            raise ValueError(f"attention_backend {attention_backend}: SageAttention has no backward pass; take another")
        try:
            transformer.set_attention_backend(attention_backend)
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"attention_backend {attention_backend}: {error}") from error
    if activation_checkpointing:
        transformer.enable_gradient_checkpointing()
    if compile_blocks:
        transformer.compile_repeated_blocks(backend=compile_backend, recompile_limit=RECOMPILE_LIMIT)


def shard_base(
    transformer: Transformer,
    world: World,
    param_dtype: torch.dtype | None = None,
    reshard_after_forward: bool | int = True,
) -> None:
    """Share the frozen base among the processes, block by block; the adapter stays whole in each.

    Comes after `add_adapter`, `float8.convert_base` and `prepare`. The base may still lie on the CPU: block
    by block it goes to this process's device, and a shard of it stays. Alone in the world, nothing is done.

    After a pass that raised, `transformer.reset_iter_state()` is due before the next.

    Args:
        param_dtype: to gather and compute in, where it is not that of the weights. Inputs are left as they are: the
            times of a diffusion model do not survive bfloat16. Float8 weights are left alone.
        reshard_after_forward: whether a block's weights are given up after its forward pass and gathered anew for the
            backward pass. True takes the least memory; False gathers once; a number keeps them among so many
            neighbours, say those of one machine.
    """
    if world.size == 1:
        return
    adapter = adapter_parameters(transformer)
    known = {id(parameter) for parameter in adapter}
    trained = [name for name, p in transformer.named_parameters() if p.requires_grad and id(p) not in known]
    if trained:
        # Their gradients would be averaged by FSDP, behind the back of `sum_gradients`.
        raise ValueError(f"{len(trained)} parameters besides the adapter are trained, such as {trained[0]}")
    for parameter in adapter:
        parameter.data = parameter.data.to(world.device)  # FSDP moves only what it shards
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, cast_forward_inputs=False)
    blocks = repeated_blocks(transformer)
    for module in (*blocks, transformer):
        module.register_forward_hook(_own_outputs)
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=reshard_after_forward if module is not transformer else None,
            mp_policy=policy,
            ignored_params=set(adapter),
        )


def _own_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Outputs that are views become tensors of their own.

    FSDP gathers a block's weights for the backward pass by a hook on its outputs, and something done in place to a
    view would drop the hook, silently. The last projection's output is a view, and so are those of FLUX's blocks.
    """
    if isinstance(outputs, Tensor):
        return outputs.clone() if outputs._base is not None else outputs
    if isinstance(outputs, tuple):
        return tuple(_own_outputs(module, inputs, output) for output in outputs)
    if hasattr(outputs, "sample"):  # a record of diffusers
        outputs.sample = _own_outputs(module, inputs, outputs.sample)
    return outputs


def _plain_name(module: nn.Module) -> str:
    """The class's name without what FSDP puts before it."""
    return type(module).__name__.removeprefix("FSDP")
