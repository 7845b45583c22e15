"""Weights, gradients and optimizer states that several processes share (FSDP2, Zhao et al. 2023), as Accelerate is
configured: `accelerate launch --use_fsdp --fsdp_version 2 …`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from unitx.backbone import Block
from unitx.errors import UnitxError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from unitx.model import Model


def sharding_of(accelerator: Accelerator) -> Any:
    """Accelerate's settings of FSDP2; None where each process holds all weights.

    Accelerate itself leaves them out where there are only CPUs.

    Raises:
        UnitxError: the first version of FSDP is asked for.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true" or not dist.is_initialized():
        return None
    from accelerate import FullyShardedDataParallelPlugin

    plugin = getattr(accelerator.state, "fsdp_plugin", None) or FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise UnitxError("Accelerate is set to FSDP's first version, which keeps no parameter whole: --fsdp_version 2")
    return plugin


def shard(model: Model, accelerator: Accelerator, plugin: Any) -> None:
    """Share all parameters between the processes, in place; optimizers are made after it.

    What is gathered together is the attention or the MLP of one block of the backbone, which every process passes in
    every step; all else (tokenizers and heads, which a process may have no item for) is gathered once a step.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    given = {"mesh": mesh, "offload_policy": plugin.cpu_offload}
    for block in cast(list[Block], model.backbone.blocks):
        for part in (block.attn, block.mlp):
            fully_shard(part, reshard_after_forward=plugin.reshard_after_forward, **given)
    fully_shard(model, **given)


def is_shared(x: Tensor) -> bool:
    """Whether each process holds a part of it."""
    return hasattr(x, "full_tensor")


def whole(x: Tensor) -> Tensor:
    """All of a tensor, of which each process may hold a part; all processes must ask."""
    return x.full_tensor() if is_shared(x) else x  # type: ignore[attr-defined]  # a DTensor's


def part_of(x: Tensor, like: Tensor) -> Tensor:
    """A tensor that each process holds all of, shared as `like` is."""
    from torch.distributed.tensor import DTensor, Replicate

    if not isinstance(like, DTensor):
        return x
    everywhere = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(x.to(like.device), like.device_mesh, everywhere).redistribute(placements=like.placements)


@torch.no_grad()
def whole_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """`state_dict`, of whole tensors on the CPU; all processes must ask."""
    return {name: whole(value).cpu() for name, value in model.state_dict().items()}
