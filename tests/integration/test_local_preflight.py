"""A run that is ended while it still asks the real vLLM for its options: nothing of that is left either."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.integration.local_run import LocalRun, arguments, children

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_a_signal_while_vllm_is_asked_for_its_options(tmp_path: Path, number: signal.Signals) -> None:
    run = LocalRun(tmp_path / "run", "experiment=demo", f"run_root={tmp_path}")  # no options are cached there
    try:
        run.wait_until(lambda: any("--help=all" in arguments(p) for p in children(run.popen.pid)), "vllm serve --help=all", 120)
        time.sleep(1.0)  # into its imports
        sent = time.monotonic()
        run.popen.send_signal(number)
        assert run.wait(10) == 130, run.text
        assert time.monotonic() - sent < 3.0
        assert f"stopped by {number.name}; run the same command again to go on" in run.text
        assert "Traceback" not in run.text
        assert run.logs() == []
        assert run.left() == []
        assert list(tmp_path.glob("cache/*")) == [], "half an answer is not kept"
    finally:
        run.close()
