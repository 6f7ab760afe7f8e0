"""Seeded weights of ordinary size for a made model, in the safetensors files and under the names of a published checkpoint.

vLLM's dummy loader fills weights within ±1e-3, and a model so filled answers the same whatever its KV cache holds.
Matrices that are normal with standard deviation 0.02, as models are initialised for training, make the text depend on every token
before it. Runs in the engine's environment, where torch and transformers are."""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SD = 0.02
SEED = 20_25
SHARD_BYTES = 4 * 2**30
CHUNK = 2**24  # values made at once: 64 MiB of fp32
SPARE = 1.05  # of what is written, that a disk has to have free
INDEX = "model.safetensors.index.json"
TYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}


class CannotMake(Exception):
    """Says in one line why no weights are written."""


def published(config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Name → tensor without memory, as the checkpoint of this model has them. transformers' own class says which there are; where
    it keeps experts fused in memory, its own conversion says how they are published. Raises CannotMake."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    given = {"torch_dtype": "bfloat16", **config}
    try:
        known = AutoConfig.for_model(given.pop("model_type"), **given)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(known)
    except (KeyError, ValueError, ImportError) as error:
        raise CannotMake(
            f"transformers cannot make weights for this hf_config ({error}); use model.engine_args.load_format=dummy"
        ) from error
    tensors: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    once = {id(tensor): name for name, tensor in reversed(tensors.items())}  # tied embeddings are published once
    tensors = {name: tensor.detach() for name, tensor in tensors.items() if once[id(tensor)] == name}
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before transformers 5 a model in memory has the checkpoint's names
        return tensors
    converted: dict[str, torch.Tensor] = revert_weight_conversion(model, tensors)
    return converted


def shards_of(sizes: Mapping[str, int]) -> list[list[str]]:
    """Names by file, in order, each file of SHARD_BYTES at most where a tensor is not larger by itself."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the files of weights, each whole or not at all, then their index, and removes those of another model.
    Raises CannotMake, also where the disk has no room for them."""
    tensors = published(config)
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in tensors.items()}
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if SPARE * total > free:
        raise CannotMake(
            f"{total / 2**30:.1f} GiB of weights do not fit on the disk of {folder}, which has {free / 2**30:.1f} GiB free;"
            " free some, choose another folder with PDSLURM_MODELS, or use model.engine_args.load_format=dummy"
        )
    shards = shards_of(sizes)
    files: dict[str, str] = {}
    for n, names in enumerate(shards, 1):
        file = f"model-{n:05d}-of-{len(shards):05d}.safetensors"
        temporary = folder / f".{file}.{os.getpid()}"
        try:
            with temporary.open("wb") as out:
                write_shard(out, {name: tensors[name] for name in names})
            temporary.replace(folder / file)
        finally:
            temporary.unlink(missing_ok=True)
        files |= dict.fromkeys(names, file)
    for other in {path.name for path in folder.glob("*.safetensors")} - set(files.values()):
        (folder / other).unlink(missing_ok=True)
    index = folder / f".{INDEX}.{os.getpid()}"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": files}, indent=1))
    index.replace(folder / INDEX)


def write_shard(out: IO[bytes], tensors: Mapping[str, torch.Tensor]) -> None:
    """One file: the length of a header, the header, and after it the values of one tensor after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in tensors.items():
        end = at + tensor.numel() * tensor.element_size()
        kind = TYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    out.write(len(text).to_bytes(8, "little") + text)
    for name, tensor in tensors.items():
        write_values(out, name, tensor.shape, tensor.dtype)


def write_values(out: IO[bytes], name: str, shape: Sequence[int], dtype: torch.dtype) -> None:
    """The values of one tensor, which depend on its name and the seed alone, and on whether a GPU or the CPU draws them."""
    import torch

    left = math.prod(shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    draw = torch.Generator(device).manual_seed(zlib.crc32(name.encode()) + (SEED << 32))
    while left > 0:
        values = torch.empty(min(left, CHUNK), dtype=torch.float32, device=device)
        if len(shape) > 1:
            values.normal_(0.0, SD, generator=draw)
        else:
            values.fill_(0.0 if name.endswith("bias") else 1.0)
        out.write(memoryview(values.to(dtype).cpu().view(torch.uint8).numpy()))
        left -= len(values)
