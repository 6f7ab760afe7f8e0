"""The last step of an image's build: the modules named import, and vLLM's and NIXL's libraries find what the image has to bring.

An import alone tells too little: without libnuma `import vllm` works and no engine starts, and NIXL passes over a plugin whose
libraries are missing and says so only at NIXL_LOG_LEVEL=INFO."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

FROM_THE_DRIVER = {"libcuda.so.1"}  # mounted into the container when it starts


def missing_libraries(library: Path, beside: Path) -> set[str]:
    """What the loader would not find for a library, without the driver's own; `beside` has libraries that Python loads first."""
    env = {**os.environ, "LD_LIBRARY_PATH": f"{beside}:{os.environ.get('LD_LIBRARY_PATH', '')}"}
    told = subprocess.run(["ldd", library], env=env, capture_output=True, text=True, check=True).stdout
    return {line.split()[0] for line in told.splitlines() if "not found" in line} - FROM_THE_DRIVER


def main() -> int:
    for name in sys.argv[1:]:
        importlib.import_module(name)
        print(name, importlib.metadata.version(name.replace("_", "-")))
    import torch

    site, beside = Path(torch.__file__).parents[1], Path(torch.__file__).parent / "lib"
    plugins = ("UCX", "LIBFABRIC") if torch.version.cuda else ("UCX",)
    patterns = ["vllm/_C*.so", *(f".nixl_cu*.mesonpy.libs/plugins/libplugin_{plugin}.so" for plugin in plugins)]
    bad = 0
    for pattern in patterns:
        files = list(site.glob(pattern))
        lacks = sorted(set().union(*(missing_libraries(file, beside) for file in files)))
        print(f"{pattern}:", f"lacks {', '.join(lacks)}" if lacks else "complete" if files else "not installed")
        bad += not files or bool(lacks)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
