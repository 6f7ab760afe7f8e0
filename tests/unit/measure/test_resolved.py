"""What engines say of what they resolved: real logs of vLLM 0.24 on H100s (results/h100x2) and of 0.32 on a CPU, real labels."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from pdslurm.measure.resolved import LABELS, LOG_LINES, of_log, of_metrics, of_server_info, resolved
from pdslurm.measure.telemetry import parse
from pdslurm.plan.what_ran import FACTS

LOGS = Path(__file__).with_name("logs")
H100 = Path(__file__).parents[3] / "results" / "h100x2" / "should_i" / "logs.tar.xz"
ON_H100 = {
    "async_scheduling": "on", "attention_backend": "FLASH_ATTN", "chunked_prefill": "on", "compile_mode": "VLLM_COMPILE",
    "cudagraph_largest": "512", "cudagraph_mode": "FULL_AND_PIECEWISE", "device": "cuda", "dtype": "bfloat16",
    "enforce_eager": "off", "flash_attention": "3", "kv_dtype": "auto", "kv_tokens": "417536", "max_model_len": "16384",
    "max_num_batched_tokens": "8192", "model_runner": "V2", "prefix_caching": "off", "quantization": "none", "vllm": "0.24.0",
}  # fmt: skip
ON_CPU = {
    "chunked_prefill": "on", "compile_mode": "NONE", "cudagraph_largest": "none", "cudagraph_mode": "NONE", "device": "cpu",
    "dtype": "float32", "enforce_eager": "on", "kv_dtype": "auto", "kv_layout": "LBHNC", "kv_tokens": "1048576",
    "max_model_len": "8192", "max_num_batched_tokens": "2048", "model_runner": "V1", "prefix_caching": "off",
    "quantization": "none", "vllm": "0.32.0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("route_2/engine0.log", ON_H100, id="a plain engine does not tell its KV layout"),
        pytest.param("pd_1p1d/engine1.2.log", {**ON_H100, "kv_layout": "HND"}, id="one with NIXL does"),
    ],
)
def test_the_log_of_0_24(name: str, expected: dict[str, str]) -> None:
    with tarfile.open(H100) as tar:
        text = tar.extractfile(f"./{name}").read().decode(errors="replace")  # type: ignore[union-attr]
    assert of_log(text.splitlines()) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("vllm-0.32-cpu.log", ON_CPU, id="a plain engine does not tell its attention backend"),
        pytest.param("vllm-0.32-cpu-nixl.log", {**ON_CPU, "attention_backend": "CPU_ATTN"}, id="one with NIXL does"),
    ],
)
def test_the_log_of_0_32(name: str, expected: dict[str, str]) -> None:
    assert of_log((LOGS / name).read_text().splitlines()) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["INFO [unquantized.py:247] Using TRITON Unquantized MoE backend out of potential backends: ['A']."],
                     {"moe_backend": "TRITON"}, id="experts of 0.24"),
        pytest.param(["INFO [cuda.py:446] Using AttentionBackendEnum.FLASHINFER backend."], {"attention_backend": "FLASHINFER"},
                     id="a backend that was asked for"),
        pytest.param(["Using FLASH_ATTN attention backend out of potential backends: [].",
                      "Using TRITON_ATTN attention backend out of potential backends: [].",
                      "Detected attention backend(s) ['FLASH_ATTN']"],
                     {"attention_backend": "FLASH_ATTN, TRITON_ATTN"}, id="layers that differ, in vLLM's own words first"),
        pytest.param(["GPU KV cache size: 417,536 tokens", "GPU KV cache size: 417,520 tokens"],
                     {"kv_tokens": "417520, 417536"}, id="two ranks"),
        pytest.param(["Initializing a V1 LLM engine (v0.32.0) with config: 'cudagraph_mode': <CUDAGraphMode.FULL: 2>, x",
                      "CUDAGraphMode.FULL is not supported with X backend (support: Y); setting cudagraph_mode=PIECEWISE because"],
                     {"vllm": "0.32.0", "cudagraph_mode": "PIECEWISE"}, id="a mode that the backend cannot do"),
        pytest.param(["non-default args: {'model': 'm', 'max_num_seqs': 64, 'async_scheduling': False}"],
                     {"max_num_seqs": "64", "async_scheduling": "off"}, id="what was asked for and is told nowhere else"),
        pytest.param(["Async scheduling not supported with ngram-based speculative decoding and will be disabled."],
                     {"async_scheduling": "off"}, id="scheduling that was turned off"),
        pytest.param(["INFO GET /health 200", "Using CPU backend for something"], {}, id="nothing"),
    ],
)  # fmt: skip
def test_other_lines(lines: list[str], expected: dict[str, str]) -> None:
    assert of_log(lines) == expected


# CacheConfig.metrics_info() of vLLM 0.32, its first and last labels
INFO = (
    '# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size="128",cache_dtype="auto",enable_prefix_caching="True",'
    'engine="{0}",gpu_memory_utilization="0.92",kv_cache_layout="LBHNC",kv_cache_size_tokens="None",num_gpu_blocks="{1}"}} 1.0\n'
)


def test_labels_of_metrics_and_what_no_label_has_yet() -> None:
    found = of_metrics(parse(INFO.format(0, 8192)))
    assert found == {
        "block_size": "128", "kv_blocks": "8192", "kv_layout": "LBHNC", "kv_dtype": "auto", "memory_share": "0.92",
        "prefix_caching": "on",
    }  # fmt: skip
    assert of_metrics(parse(INFO.format(0, 10) + INFO.format(1, 12)))["kv_blocks"] == "10, 12"
    assert of_metrics({}) == {}


def test_server_info_as_json_and_as_text() -> None:
    # out of the JSON of vLLM 0.32's VllmConfig
    config = {
        "model_config": None, "cache_config": {"block_size": 128, "gpu_memory_utilization": 0.92, "num_gpu_blocks": None},
        "scheduler_config": {"max_num_batched_tokens": 2048, "max_num_seqs": 128, "policy": "fcfs", "async_scheduling": False},
    }  # fmt: skip
    assert of_server_info(json.dumps({"vllm_config": config})) == {
        "max_num_seqs": "128", "max_num_batched_tokens": "2048", "scheduler_policy": "fcfs", "async_scheduling": "off",
        "block_size": "128", "memory_share": "0.92",
    }  # fmt: skip
    text = "model='m', dtype=torch.bfloat16, max_seq_len=16384, quantization=fp8, kv_cache_dtype=fp8_e4m3, x"
    assert of_server_info(json.dumps({"vllm_config": text})) == {
        "dtype": "bfloat16", "max_model_len": "16384", "quantization": "fp8", "kv_dtype": "fp8_e4m3",
    }  # fmt: skip
    assert of_server_info("Not Found") == of_server_info(None) == {}


def test_the_log_has_the_last_word_and_what_is_not_told_is_not_there() -> None:
    line = "GPU KV cache size: 1,000 tokens"
    metrics = parse(INFO.replace('size_tokens="None"', 'size_tokens="999"').format(0, 8))
    found = resolved([line], metrics, '{"version": "0.32.0"}', None)
    assert (found["kv_tokens"], found["vllm"], found["kv_blocks"]) == ("1000", "0.32.0", "8")
    assert "attention_backend" not in found
    assert resolved([], None, None, None) == {}


def test_every_fact_that_is_read_is_compared() -> None:
    assert {*LOG_LINES, *LABELS} <= set(FACTS)
