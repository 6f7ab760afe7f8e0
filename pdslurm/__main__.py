"""`python -m pdslurm experiment=NAME [overrides]`: from the command line to a launcher. The exit code says what went wrong."""

from __future__ import annotations

import importlib
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from pdslurm.config import Config, LauncherKind, register, to_config
from pdslurm.errors import CleanUpFailed, ConfigError, LimitReached, PdslurmError
from pdslurm.plan.checks import spelling
from pdslurm.plan.checks.secrets import refuse_words
from pdslurm.plan.environment import masked, masked_word
from pdslurm.plan.smoke import is_smoke, with_smoke
from pdslurm.plan.splits import with_splits

CONF = Path(__file__).parents[1] / "conf"  # absolute: as the program `pdslurm` this module is not Hydra's main file
register()


def run(cfg: DictConfig) -> int:
    """Carries out one Hydra job; returns the exit code and has printed the error, if any."""
    try:
        refuse_misread_variables(cfg)
        config = to_config(cfg)
        refuse_lost_overrides(config)
        config = with_splits(with_smoke(config, HydraConfig.get().overrides.task))
        launcher = importlib.import_module(f"pdslurm.launchers.{config.launcher.kind.value}")
        try:
            launcher.launch(config)
        except PdslurmError as error:  # what was measured until then is what there is to answer with
            if isinstance(error, LimitReached | CleanUpFailed) or is_smoke(config):
                print_answer(config)
            raise
        print_answer(config)
        if is_smoke(config):
            importlib.import_module("pdslurm.launchers.answer").check_smoke(config)
    except PdslurmError as error:
        print(masked(f"pdslurm: {error}"), file=sys.stderr)
        return error.exit_code
    except OmegaConfBaseException as error:
        print(masked(f"pdslurm: the configuration is incomplete or wrong: {error}"), file=sys.stderr)
        return 2
    except BrokenPipeError:  # `… launcher=plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def print_answer(config: Config) -> None:
    """What the measurements say, where there are any to compare; a plan must not wait for what that imports."""
    if config.launcher.kind not in (LauncherKind.plan, LauncherKind.script):
        print(importlib.import_module("pdslurm.launchers.answer").answer_text(config), end="")


def refuse_misread_variables(cfg: DictConfig) -> None:
    """Raises ConfigError for environment variables of which YAML made something else than was written."""
    if found := list(spelling.problems(cfg, HydraConfig.get(), GlobalHydra.instance().config_loader())):
        raise ConfigError(found)


def refuse_lost_overrides(config: Config) -> None:
    """An experiment with `arms` does not read `topology`: an override of it on the command line would be lost without a word."""
    lost = [o for o in HydraConfig.get().overrides.task if re.match(r"[+~]*topology([.=]|$)", o)]
    if config.arms and lost:
        names = ", ".join(config.arms)
        raise ConfigError(
            [f"{masked_word(lost[0])}: this experiment measures arms ({names}), not topology; use arms.NAME.… of one of them"]
        )


def main() -> None:
    """The entry point: Hydra composes the configuration, completes shells and runs multiruns; the worst job's exit code counts."""
    codes: list[int] = []
    try:
        refuse_words(sys.argv[1:], os.environ)
    except ConfigError as error:
        print(f"pdslurm: {error}", file=sys.stderr)
        sys.exit(error.exit_code)

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> None:
        codes.append(run(cfg))

    job()
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
