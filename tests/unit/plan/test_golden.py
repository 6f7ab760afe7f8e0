"""The plan of every experiment in conf/experiment against tests/golden/NAME.json, and two as scripts against script_NAME.sbatch: a
change of any command line shows as a diff.

`pytest tests/unit/plan/test_golden.py --accept` writes the files anew; read their diff in git before you commit it."""

from __future__ import annotations

import difflib
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from omegaconf import open_dict

from pdslurm.config import Config, register, to_config
from pdslurm.plan.outline import make_outline
from pdslurm.plan.plan import build_plan
from pdslurm.plan.render import dump_json, plan_text
from pdslurm.plan.smoke import with_smoke
from pdslurm.plan.splits import with_splits
from pdslurm.slurm.sbatch_script import sbatch_script
from tests.made import keys_of

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
EXPERIMENTS = sorted(f.stem for f in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the working directory nor the caller's environment may change a plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PDSLURM_ENGINE", raising=False)
    monkeypatch.delenv("PDSLURM_MODELS", raising=False)


def composed(experiment: str, *more: str, conf: Path = ROOT / "conf") -> Config:
    """What `python -m pdslurm experiment=… launcher=plan launcher.format=json …` makes of the files, without a process."""
    register()
    with initialize_config_dir(str(conf), version_base="1.3"):
        overrides = [f"experiment={experiment}", "launcher=plan", "launcher.format=json", *more]
        cfg = compose("config", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # `name` is the chosen experiment's
        try:
            with open_dict(cfg):
                del cfg["hydra"]
            return with_splits(with_smoke(to_config(cfg), overrides))
        finally:
            HydraConfig.instance().cfg = None


def golden(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan without this machine's paths, with a line a process and a line a point, benchmark commands once an arm."""
    text = json.dumps(plan).replace(str(ROOT), "<root>")
    plan = json.loads(text)
    for process in plan["processes"]:
        process["argv"] = shlex.join(process["argv"])
        process["gpus"] = " ".join(map(str, process["gpus"]))
    points: dict[str, Any] = {}
    for point in plan.pop("points"):
        arm = points.setdefault(point["arm"], {"set": point["set"], "bench": shlex.join(point["bench_args"]), "points": []})
        arm["points"].append(
            f"{point['id']} prompts={point['num_prompts']} seed={point['seed']} sweeps={','.join(point['sweeps'])}"
        )
    lists = [arm["points"] for arm in points.values()]
    if all(listed == lists[0] for listed in lists):  # they always are; else every arm shows its own
        plan["points"] = lists[0]
        points = {name: {k: v for k, v in arm.items() if k != "points"} for name, arm in points.items()}
    return {**plan, "arms": points}


def test_every_experiment_has_a_golden_file_and_none_is_left_over(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--accept"):
        for file in GOLDEN.glob("*.json"):
            if file.stem not in EXPERIMENTS:
                file.unlink()
        pytest.skip("accepting: the files are being written")
    assert sorted(f.stem for f in GOLDEN.glob("*.json")) == EXPERIMENTS, "run: pytest tests/unit/plan/test_golden.py --accept"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_plan(experiment: str, request: pytest.FixtureRequest) -> None:
    plan = json.loads(dump_json(make_outline(composed(experiment))))
    words = [w for process in plan["processes"] for w in (*process["argv"], *process["env"].values())]
    words += [w for point in plan["points"] for w in point["bench_args"]]
    assert {w for w in words if w.startswith("/")} == {"/v1/completions", str(ROOT / "pdslurm" / "bench" / "client.py")}
    found = json.dumps(golden(plan), indent=1, ensure_ascii=False) + "\n"
    compare(request, GOLDEN / f"{experiment}.json", found, f"experiment={experiment}")


@pytest.mark.parametrize(
    ("experiment", "point", "expected"),
    [
        ("silver_bullet_h200", ("route_4", "i512-o256-rinf-cinf-rep0"), "94c5a3b0ae14c5b1"),
        ("demo", ("route_2", "i64-o32-rinf-cinf-rep0"), "c01609e395d4b402"),
    ],
)
def test_what_was_measured_is_found_again(experiment: str, point: tuple[str, str], expected: str) -> None:
    """A key that changes without need makes a resumed run measure everything anew: change these only where numbers change too."""
    assert keys_of(composed(experiment), {"vllm": "1"})[point] == expected


@pytest.mark.parametrize("experiment", ["pd_1p3d", "dp_baseline"])
def test_script(experiment: str, request: pytest.FixtureRequest) -> None:
    found = sbatch_script(build_plan(composed(experiment)))
    assert str(ROOT) not in found
    file = GOLDEN / f"script_{experiment}.sbatch"
    compare(request, file, found, f"experiment={experiment} launcher=script")
    subprocess.run(["bash", "-n", file], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", file], check=True)


def test_sets_take_turns_by_starts_and_not_by_interleave() -> None:
    with pytest.raises(ConfigCompositionException) as caught:
        composed("demo", "workload.interleave=sets")
    assert "Invalid value 'sets', expected one of [none, arms]" in str(caught.value.__cause__)
    assert composed("demo", "workload.starts=2").workload.starts == 2


def test_a_load_that_vllm_cannot_send_is_told() -> None:
    """The plan has the whole command; the script, which runs by itself, one that `vllm bench serve` takes."""
    outline = make_outline(composed("pd_1p3d", "workload=mix"))
    text, script = plan_text(outline), sbatch_script(outline.plan)
    assert "as a command (of which only pdslurm knows the options --pdslurm-…):" in text
    assert "--pdslurm-mix" in text
    assert "vllm bench serve cannot send it (mix of " in script
    assert "--pdslurm" not in script
    assert "--random-input-len" in script
    assert "60 s with 256 different prompts, seed" in plan_text(make_outline(composed("pcie_pd")))


def compare(request: pytest.FixtureRequest, file: Path, found: str, what: str) -> None:
    """Fails with a diff, or writes the file where the new text is accepted."""
    if request.config.getoption("--accept"):
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(found)
    expected = file.read_text() if file.is_file() else ""
    if found != expected:
        before, after = expected.splitlines(), found.splitlines()
        diff = "\n".join(difflib.unified_diff(before, after, f"tests/golden/{file.name}", what, n=1, lineterm=""))
        pytest.fail(
            f"the plan of {what} changed. If it should have: pytest tests/unit/plan/test_golden.py --accept\n{diff}",
            pytrace=False,
        )
