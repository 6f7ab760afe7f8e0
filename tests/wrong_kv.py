"""A vLLM plugin that plants a fault in real transfers: while the file named by WRONG_KV exists, the first block of each prompt that
a decode instance fetched by NIXL is set to zero once it is there. `install` makes a folder for the engines' PYTHONPATH."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any


def register() -> None:
    """What vLLM calls in each of its processes."""
    from vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker import NixlBaseConnectorWorker as Worker

    arrived = Worker._pop_done_transfers

    def corrupted(self: Any, transfers: Any) -> Any:
        done, failed = arrived(self, transfers)
        if os.path.exists(os.environ["WRONG_KV"]):
            for request in done:
                blocks = self._recving_metadata[request].local_physical_block_ids[0][:1]
                self._zero_region_blocks([blocks] * len(self.region_names))
                print("zeroed", blocks, "of", request, flush=True)
        return done, failed

    Worker._pop_done_transfers = corrupted


def install(folder: Path) -> Path:
    """Makes `folder` a place where Python finds this plugin and its entry point."""
    info = folder / "wrong_kv-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong-kv\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nwrong_kv = wrong_kv:register\n")
    shutil.copy(__file__, folder / "wrong_kv.py")
    return folder
