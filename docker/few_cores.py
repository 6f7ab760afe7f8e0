"""A vLLM plugin for hosts with few cores: idle engines sleep where vLLM and NIXL spin. Does nothing without PDSLURM_FEW_CORES=1.

Both spin for good reason where cores are many. On two cores, instances side by side starve each other, and worse:
- NIXL's Python API sets the time-out of its progress thread's poll() to 0: every instance keeps one core busy even when idle.
- vLLM's processes wait for each other in sched_yield() loops. On Linux 6.6 and newer (EEVDF) every yield moves the thread's
  deadline further away: a thread that yielded often does not run for seconds when it has work, and requests took up to 31 s.

docker/engine_env.sh installs it; vLLM loads it in every process by its entry point in vllm.general_plugins."""

from __future__ import annotations

import os
import time
from typing import Any

NIXL_POLL_US = 1000  # UCX's events end the wait earlier
VLLM_WAIT_S = 100e-6


def register() -> None:
    """What vLLM calls."""
    if os.environ.get("PDSLURM_FEW_CORES") == "1":
        let_nixl_sleep()
        let_vllm_sleep()


def let_nixl_sleep() -> None:
    """Wraps nixlAgent so that a configuration without a delay gets one."""
    try:
        from nixl_cu12 import _api
    except ImportError:
        return
    bindings = _api.nixlBind
    original = bindings.nixlAgent
    if getattr(original, "sleeps", False):
        return

    def with_delay(name: str, config: Any) -> Any:
        config.pthrDelay = config.pthrDelay or NIXL_POLL_US
        return original(name, config)

    with_delay.sleeps = True  # type: ignore[attr-defined]
    bindings.nixlAgent = with_delay


def let_vllm_sleep() -> None:
    """Replaces sched_yield where processes of an instance wait for each other's shared memory."""
    from vllm.distributed.device_communicators import shm_broadcast

    shm_broadcast.sched_yield = lambda: time.sleep(VLLM_WAIT_S)
