"""The model of vLLM's scheduler against vLLM's scheduler: the same steps, preemptions and prefix hits."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float32", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 65536,
}  # fmt: skip


@pytest.mark.engine
def test_vllm_s_scheduler_decides_the_same_steps(engine: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    variables = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "PYTHONPATH": str(ROOT)}
    command = [str(engine / "bin" / "python"), str(ROOT / "tests/integration/vllm_scheduler.py"), str(tmp_path), "30"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    steps, preemptions = map(int, done.stdout.split()[-2:])
    assert steps > 10_000
    assert preemptions > 100
