"""What pdslurm does before a Hydra multirun, as the callback that conf/config.yaml names."""

from __future__ import annotations

import os
import sys
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from pdslurm.errors import ConfigError
from pdslurm.plan.checks.secrets import problems


class RefuseSecrets(Callback):
    """Refuses a secret before Hydra writes multirun.yaml, which holds the composed configuration and the overrides."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Raises SystemExit, for Hydra makes a warning of any other error here. Interpolations are not resolved, nor written so."""
        values = OmegaConf.to_container(config, resolve=False)
        if isinstance(values, dict) and (found := list(problems({str(key): value for key, value in values.items()}, os.environ))):
            error = ConfigError(found)
            print(f"pdslurm: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
