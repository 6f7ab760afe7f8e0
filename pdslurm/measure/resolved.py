"""From what an engine says when it is ready to what it resolved: its log, the labels of its /metrics, /version, /server_info. Pure.

A command line says what was asked for; what runs is chosen by vLLM from that, the model and the GPU. Every fact is a name and a
value in words. A fact that an engine does not tell is not in the mapping: unknown, and equal to nothing.

The log lines are those of vLLM 0.24 and 0.32. The line with the resolved configuration is `VllmConfig.__str__` (config/vllm.py) and
/server_info's text is the same; its JSON is the whole configuration, but a server answers it in its development mode alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pdslurm.measure.telemetry import ENGINE_INFO, Sample

# Fact → patterns of log lines, the surest first: the first one that matches anywhere in the log tells, the others do not.
LOG_LINES: Mapping[str, tuple[str, ...]] = {
    "vllm": (r"Initializing a V1 LLM engine \(v([^)]+)\) with config",),
    "attention_backend": (
        r"Using (\w+) attention backend out of",  # platforms/cuda.py, chosen by vLLM
        r"Using (?:AttentionBackendEnum\.)?([A-Z][A-Z0-9_]+) backend\.",  # chosen by the user, and MLA on a CPU
        r"Detected attention backend\(s\) \[(.+?)\]",  # nixl/base_worker.py: on a CPU nothing else tells
    ),
    "flash_attention": (r"Using FlashAttention version (\d+)",),
    "mla_prefill_backend": (r"Using (\w+) MLA prefill backend",),
    "moe_backend": (r"Using (\S+) (?:\w+ )?MoE backend",),
    "kv_layout": (r"Using (\w+) KV cache layout", r"Detected kv cache layout (\w+)"),
    "kv_tokens": (r"KV cache size: ([\d,]+) tokens",),
    "max_num_batched_tokens": (r"Chunked prefill is enabled with max_num_batched_tokens=(\d+)",),
    "max_num_seqs": (r"non-default args: .*'max_num_seqs': (\d+)",),
    "async_scheduling": (
        r"Asynchronous scheduling is (enabled|disabled)",
        r"Async scheduling .*(?:will be|is) (disabled)",
        r"non-default args: .*'async_scheduling': (False)",
    ),
    "scheduler_policy": (r"non-default args: .*'scheduling_policy': '(\w+)'",),
    "model_runner": (r"Using (V\d) Model Runner", r"using the (V\d) model runner instead"),
    "cudagraph_mode": (r"; setting cudagraph_mode=(\w+)",),  # config/compilation.py: what the backend cannot do is changed late
}
# Fact → its pattern in the line with the resolved configuration, taken where no line above tells it.
CONFIG_LINE: Mapping[str, str] = {
    "dtype": r"\bdtype=(?:torch\.)?(\w+)",
    "kv_dtype": r"\bkv_cache_dtype=(\w+)",
    "quantization": r"\bquantization=([\w-]+)",
    "max_model_len": r"\bmax_seq_len=(\d+)",
    "chunked_prefill": r"\benable_chunked_prefill=(\w+)",
    "prefix_caching": r"\benable_prefix_caching=(\w+)",
    "enforce_eager": r"\benforce_eager=(\w+)",
    "device": r"\bdevice_config=(\w+)",
    "compile_mode": r"'mode': <CompilationMode\.(\w+)",
    "cudagraph_mode": r"'cudagraph_mode': <CUDAGraphMode\.(\w+)",
    "cudagraph_largest": r"'max_cudagraph_capture_size': (\w+)",
    # the end of the ranges is max_num_batched_tokens, and the largest (config/vllm.py `_set_compile_ranges`)
    "max_num_batched_tokens": r"'compile_ranges_endpoints': \[(?:\d+, )*(\d+)\]",
}
_CONFIG = re.compile(r"Initializing a V1 LLM engine .* with config: (.*)")
# Fact → label of ENGINE_INFO, which has every field of vLLM's CacheConfig (config/cache.py `metrics_info`).
LABELS: Mapping[str, str] = {
    "block_size": "block_size",
    "kv_blocks": "num_gpu_blocks",
    "kv_tokens": "kv_cache_size_tokens",
    "kv_layout": "kv_cache_layout",
    "kv_dtype": "cache_dtype",
    "memory_share": "gpu_memory_utilization",
    "prefix_caching": "enable_prefix_caching",
}
# Fact → where /server_info?config_format=json has it.
SERVER_INFO: Mapping[str, tuple[str, str]] = {
    "max_num_seqs": ("scheduler_config", "max_num_seqs"),
    "max_num_batched_tokens": ("scheduler_config", "max_num_batched_tokens"),
    "chunked_prefill": ("scheduler_config", "enable_chunked_prefill"),
    "scheduler_policy": ("scheduler_config", "policy"),
    "async_scheduling": ("scheduler_config", "async_scheduling"),
    "dtype": ("model_config", "dtype"),
    "quantization": ("model_config", "quantization"),
    "max_model_len": ("model_config", "max_model_len"),
    "enforce_eager": ("model_config", "enforce_eager"),
    "block_size": ("cache_config", "block_size"),
    "kv_dtype": ("cache_config", "cache_dtype"),
    "prefix_caching": ("cache_config", "enable_prefix_caching"),
    "memory_share": ("cache_config", "gpu_memory_utilization"),
    "kv_blocks": ("cache_config", "num_gpu_blocks"),
}
MAY_BE_NONE = ("quantization", "cudagraph_largest")  # none is a value of these; elsewhere it says that nobody has decided yet
WORDS = {"True": "on", "False": "off", "enabled": "on", "disabled": "off"}


def resolved(log: Iterable[str], metrics: Sample | None, version: str | None, server_info: str | None) -> dict[str, str]:
    """Every fact that one engine tells. `log` has the lines of all its processes; the others are the answers of /metrics, /version
    and /server_info?config_format=json, None where there was none. What vLLM says in its log was decided last, so it wins."""
    found = {**of_server_info(server_info), **of_metrics(metrics or {}), **of_version(version), **of_log(log)}
    return dict(sorted(found.items()))


def of_log(lines: Iterable[str]) -> dict[str, str]:
    """What a log tells. Values of several ranks or layers that differ are joined: `FLASH_ATTN, TRITON_ATTN`."""
    patterns = [(name, i, re.compile(text)) for name, some in LOG_LINES.items() for i, text in enumerate(some)]
    said: dict[tuple[str, int], list[str]] = {}
    config = ""
    for line in lines:
        for name, i, pattern in patterns:
            if match := pattern.search(line):
                said.setdefault((name, i), []).append(match[1])
        if match := _CONFIG.search(line):
            config = match[1]
    told = of_config(config)
    for name, some in LOG_LINES.items():
        values = next((said[name, i] for i in range(len(some)) if (name, i) in said), [])
        if values:
            # the last word on a mode counts; of everything else each rank and layer has its own
            told[name] = _words(values[-1]) if name == "cudagraph_mode" else _joined(values)
    return told


def of_config(text: str) -> dict[str, str]:
    """What `VllmConfig.__str__` tells."""
    found = {name: match[1] for name, pattern in CONFIG_LINE.items() if (match := re.search(pattern, text))}
    return {name: _words(value) for name, value in found.items() if value != "None" or name in MAY_BE_NONE}


def of_metrics(sample: Sample) -> dict[str, str]:
    """What the labels of ENGINE_INFO tell, joined over data-parallel ranks."""
    ranks = [dict(labels) for (name, labels) in sample if name == ENGINE_INFO]
    by_fact = {name: [rank[label] for rank in ranks if rank.get(label, "None") != "None"] for name, label in LABELS.items()}
    return {name: _joined(values) for name, values in by_fact.items() if values}


def of_version(text: str | None) -> dict[str, str]:
    """What /version tells, which every server answers."""
    value = _json(text).get("version")
    return {"vllm": str(value)} if value else {}


def of_server_info(text: str | None) -> dict[str, str]:
    """What /server_info tells, as JSON or as text."""
    config = _json(text).get("vllm_config")
    if isinstance(config, str):
        return of_config(config)
    if not isinstance(config, Mapping):
        return {}
    of = {part: value for part, value in config.items() if isinstance(value, Mapping)}
    parts = {name: of.get(part, {}).get(field) for name, (part, field) in SERVER_INFO.items()}
    values = {name: str(value).removeprefix("torch.") for name, value in parts.items() if value is not None}
    return {name: _words(value) for name, value in values.items()}


def _json(text: str | None) -> Mapping[str, Any]:
    try:
        value = json.loads(text or "")
    except ValueError:
        return {}
    return value if isinstance(value, Mapping) else {}


def _joined(values: Iterable[str]) -> str:
    """Each value once, in an order that does not depend on who wrote first."""
    return ", ".join(sorted({_words(part) for value in values for part in _parts(value)}))


def _parts(value: str) -> list[str]:
    """`'FLASH_ATTN', 'GDN_ATTN'` → both; `417,536` → 417536."""
    if re.fullmatch(r"\d{1,3}(,\d{3})+", value):
        return [value.replace(",", "")]
    return [part.strip(" '\"") for part in value.split(",")]


def _words(value: str) -> str:
    return "none" if value == "None" else WORDS.get(value, value)
