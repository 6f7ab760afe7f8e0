"""The weights of a made model, written and read in the engine's environment: what they are, and under which names."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pdslurm.bench import make_model

pytestmark = pytest.mark.engine
# Name → [dtype, shape, mean, standard deviation] of what the public reader of such files finds in the folder argv[1].
READ = """
import json, pathlib, sys
from safetensors import safe_open
found = {}
for file in pathlib.Path(sys.argv[1]).glob("*.safetensors"):
    with safe_open(file, "pt") as opened:
        for name in opened.keys():
            tensor = opened.get_tensor(name)
            values = tensor.float()
            found[name] = [str(tensor.dtype), list(tensor.shape), float(values.mean()), float(values.std(correction=0))]
json.dump(found, sys.stdout)
"""
SMALL_MOE = {
    "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "n_routed_experts": 4, "vocab_size": 512,
}  # fmt: skip


def make(engine: Path, folder: Path, config: Mapping[str, Any], *more: str) -> subprocess.CompletedProcess[str]:
    command = [str(engine / "bin/python"), make_model.__file__, str(folder), *more]
    return subprocess.run(command, input=json.dumps(config), text=True, capture_output=True, check=False, timeout=120)


def read(engine: Path, folder: Path) -> dict[str, tuple[str, list[int], float, float]]:
    text = subprocess.run(
        [engine / "bin/python", "-c", READ, folder], text=True, capture_output=True, check=True, timeout=120
    ).stdout
    return {name: tuple(value) for name, value in json.loads(text).items()}


def test_weights_are_of_ordinary_size_and_the_same_each_time(
    engine: Path, tmp_path: Path, hf_configs: Mapping[str, Mapping[str, Any]]
) -> None:
    for name in ("one", "two"):
        assert make(engine, tmp_path / name, hf_configs["tiny"]).returncode == 0
    one, two = (sorted((tmp_path / name).glob("*")) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    found = read(engine, tmp_path / "one")
    assert found["model.layers.1.self_attn.k_proj.weight"][:2] == ("torch.float32", [64, 128])
    drawn = {(mean, sd) for name, (_, _, mean, sd) in found.items() if "norm" not in name}
    assert len(drawn) == 16, "no two matrices are the same"
    for name, (_, shape, mean, sd) in found.items():
        if "norm" in name:
            assert (mean, sd) == (1.0, 0.0), name
        else:
            values = math.prod(shape)  # six standard errors of either statistic
            assert abs(mean) < 6 * 0.02 / math.sqrt(values), name
            assert sd == pytest.approx(0.02, rel=6 / math.sqrt(2 * values)), name


def test_experts_have_the_names_of_the_published_checkpoint(
    engine: Path, tmp_path: Path, hf_configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """vLLM reads one matrix an expert; transformers 5 keeps them fused in memory."""
    assert make(engine, tmp_path / "moe", {**hf_configs["deepseek_v2_lite"], **SMALL_MOE}).returncode == 0
    found = read(engine, tmp_path / "moe")
    experts = {name: value[:2] for name, value in found.items() if ".experts." in name}
    assert sorted(experts) == sorted(
        f"model.layers.1.mlp.experts.{n}.{part}_proj.weight" for n in range(4) for part in ("gate", "up", "down")
    )
    assert experts["model.layers.1.mlp.experts.3.down_proj.weight"] == ("torch.bfloat16", [64, 32])
    assert found["model.layers.1.mlp.gate.weight"][1] == [4, 64]
    assert found["model.layers.0.mlp.up_proj.weight"][1] == [96, 64]
    index = json.loads((tmp_path / "moe" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(found)


def test_what_cannot_be_made_is_said_in_one_line(engine: Path, tmp_path: Path, hf_configs: Mapping[str, Mapping[str, Any]]) -> None:
    huge = {**hf_configs["tiny"], "vocab_size": 2**40}
    for config, said in (
        (huge, "GiB of weights do not fit on the disk of"),
        ({**huge, "model_type": "nosuch"}, "transformers cannot"),
    ):
        done = make(engine, tmp_path / "model", config)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "model" / "config.json").exists()
    assert make(engine, tmp_path / "model", hf_configs["tiny"], "--no-weights").returncode == 0
    assert list((tmp_path / "model").glob("*.safetensors*")) == []
