"""Records are written whole or not at all, a run knows what is done, and a key changes with what could change a number."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdslurm import config as c
from pdslurm.errors import ResultsError
from pdslurm.plan.deployment import Host, bind
from pdslurm.plan.plan import build_plan
from pdslurm.records.measurement import Check, Measurement, content_key, metrics_of
from pdslurm.records.record_file import NoRecord, load_record
from pdslurm.records.run_folder import RunFolder
from pdslurm.records.shapes import misfit
from pdslurm.records.whole_file import write_json
from tests.broken import RECORDS, broken
from tests.made import keys_of

MakeConfig = Callable[..., c.Config]
VERSIONS = {"vllm": "0.32.0", "nixl": "1.5.1"}


def record(**changes: Any) -> Measurement:
    point = {"id": "i64-o32-rinf-cinf-rep0", "input_len": 64}
    made = Measurement(
        key="0123456789abcdef", run="demo", arm="route_2", source="measured", status="done", valid=True, invalid_reasons=(),
        point=point, arm_info={}, started_at="2026-11-20T08:00:00Z", wall_s=1.0, completed=4, metrics={"mean_ttft_ms": None},
    )  # fmt: skip
    return replace(made, **changes)


# --- writing


def test_write_json_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "state.json"
    write_json(path, {"a": 1, "path": tmp_path})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}
    assert os.listdir(path.parent) == ["state.json"]


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = record(
        checks=(Check("completed", True, "4 of 4", {"asked": 4}), Check("clocks", None, "no nvidia-smi")),
        distributions={"itl_ms": {"50": 12}}, valid=False, invalid_reasons=("a",),
    )  # fmt: skip
    assert load_record(RunFolder(tmp_path).save(made)) == made


def test_records_of_the_first_schema_have_no_checks(tmp_path: Path) -> None:
    path = RunFolder(tmp_path).save(record())
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("checks", "distributions")}
    path.write_text(json.dumps(old | {"schema_version": 1}))
    assert load_record(path) == record()


def test_a_full_disk_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_json(path, {"status": "running"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device; free space or fix permissions, then run again") as caught:
        write_json(path, {"status": "done"})
    assert str(path) in str(caught.value)
    assert caught.value.exit_code == 7
    assert json.loads(path.read_text()) == {"status": "running"}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file stands where the folder should be: that stops root too, as a mode of 0555 would not."""
    (tmp_path / "points").write_text("in the way")
    with pytest.raises(ResultsError, match=r"cannot write .*points/route_2/.*json: Not a directory"):
        RunFolder(tmp_path).save(record())


# --- records


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    folder, saved = RunFolder(tmp_path), record(invalid_reasons=("9 of 10 requests completed",), valid=False)
    path = folder.save(saved)
    assert path == tmp_path / "points" / "route_2" / "i64-o32-rinf-cinf-rep0-0123456789abcdef.invalid.json"
    assert list(folder.records()) == [saved]


def test_what_is_done_is_known_by_arm_point_and_key(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    point, key = "i64-o32-rinf-cinf-rep0", "0123456789abcdef"
    assert not folder.is_done("route_2", point, key)
    folder.save(record())
    assert folder.is_done("route_2", point, key)
    assert not folder.is_done("pd_1p1d", point, key)
    assert not folder.is_done("route_2", "i64-o32-rinf-cinf-rep1", key)
    assert not folder.is_done("route_2", point, "fedcba9876543210")


def test_a_failed_point_is_kept_but_not_done_until_it_succeeds(tmp_path: Path) -> None:
    folder, point, key = RunFolder(tmp_path), "i64-o32-rinf-cinf-rep0", "0123456789abcdef"
    path = folder.save(record(status="failed", valid=False, error="boom"))
    assert path.name.endswith(".failed.json")
    assert not folder.is_done("route_2", point, key)
    assert [r.error for r in folder.records()] == ["boom"]
    folder.save(record())
    assert folder.is_done("route_2", point, key)
    assert [r.status for r in folder.records()] == ["done"]


def test_an_invalid_point_is_not_done_and_stays_beside_what_is_measured_later(tmp_path: Path) -> None:
    folder, point = RunFolder(tmp_path), ("route_2", "i64-o32-rinf-cinf-rep0", "0123456789abcdef")
    raws = [folder.raw_name(*point)]
    for reason in "xy":
        folder.save(record(valid=False, invalid_reasons=(reason,)))
        raws.append(folder.raw_name(*point))
        assert not folder.is_done(*point)
    folder.save(record())
    assert folder.is_done(*point)
    assert sorted(r.invalid_reasons for r in folder.records()) == [(), ("x",), ("y",)]
    assert [raw.removeprefix("raw/route_2/i64-o32-rinf-cinf-rep0-0123456789abcdef") for raw in raws] == ["", "-2", "-3"]


def test_files_beside_the_raw_one(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    raw = folder.raw_name("route_2", "i64-o32-rinf-cinf-rep0", "0123456789abcdef")
    made = record(provenance={"raw": f"{raw}.json.gz"})
    assert folder.beside_raw(made, "requests") == tmp_path / f"{raw}.requests.csv.gz"
    assert folder.beside_raw(made, "timeline") == tmp_path / f"{raw}.timeline.csv.gz"


def test_a_data_set_s_name_in_an_id_is_no_length(tmp_path: Path) -> None:
    made = record(point={"id": "i64-rinf-c4-o1-mini-rep0", "input_len": 64, "output_len": 0}, demand={"input_len": 0})
    assert load_record(RunFolder(tmp_path).save(made)) == made


@pytest.mark.parametrize("kind", RECORDS)
def test_what_is_no_record_says_why_and_hides_no_other(tmp_path: Path, kind: str) -> None:
    folder = RunFolder(tmp_path)
    folder.save(record(arm="a"))
    said = broken(path := folder.save(record(arm="b")), kind)
    with pytest.raises(NoRecord) as caught:
        load_record(path)
    assert said in caught.value.why
    assert str(caught.value) == f"{path} is no record that pdslurm can read ({caught.value.why})"
    assert [found.arm for found in folder.records()] == ["a"]
    assert [(found.path, found.why) for found in folder.unreadable()] == [(path, caught.value.why)]
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.path, copied.why) == (path, caught.value.why)


@pytest.mark.parametrize(
    ("value", "type_", "said"),
    [
        (1, float, None),
        (None, float | None, None),
        ([1, 2.5], list[float], None),
        ([1, "x"], tuple[float, ...], "m[1] is a text, not a number"),
        ({"a": None}, Mapping[str, float | None], None),
        ({"a": True}, Mapping[str, float | None], "m.a is true or false, not a number"),
        ({"a": [{"b": "any"}]}, Mapping[str, list[Mapping[str, Any]]], None),
        ({"a": [3]}, Mapping[str, list[Mapping[str, Any]]], "m.a[0] is a whole number, not an object"),
        ({}, list[str], "m is an object, not a list"),
        (3, Mapping[str, Any] | None, "m is a whole number, not an object"),
        (2.0, int, "m is a number, not a whole number"),
    ],
)
def test_a_value_of_json_and_its_type(value: Any, type_: Any, said: str | None) -> None:
    assert misfit(value, type_, "m") == said


# --- metrics


def test_metrics_by_our_names() -> None:
    client = {
        "completed": 4,
        "request_throughput": 2.0,
        "output_throughput": 64.0,
        "total_token_throughput": 200.0,
        "duration": 2.0,
    }
    client |= {f"{stat}_ttft_ms": n for n, stat in enumerate(("mean", "std", "p50", "p90", "p95", "p99"), start=1)}
    client |= {f"{stat}_itl_ms": 0.0 for stat in ("mean", "std", "p50", "p90", "p95", "p99")}
    found = metrics_of(client)
    assert found["request_throughput_per_s"] == 2.0
    assert found["output_throughput_tok_s"] == 64.0
    assert (found["mean_ttft_ms"], found["p99_ttft_ms"]) == (1, 6)
    assert found["mean_itl_ms"] is None, "one output token has no ITL; the client writes 0"
    assert found["p99_e2el_ms"] is None, "the client did not say"


@pytest.mark.parametrize("completed", [0, None])
def test_with_nothing_completed_every_metric_is_unknown(completed: int | None) -> None:
    found = metrics_of({"completed": completed, "request_throughput": 0.0, "mean_ttft_ms": 0.0, "duration": 1.0})
    assert set(found.values()) == {None}
    assert "mean_ttft_ms" in found


# --- keys


def keys(config: c.Config, versions: dict[str, str] | None = None, **bound: Any) -> dict[tuple[str, str], str]:
    return keys_of(config, versions or VERSIONS, bind(build_plan(config), **bound))


def test_a_key_a_point(make_config: MakeConfig) -> None:
    config = make_config({"topology.route": 2, "workload.repeats": 2})
    found = keys(config)
    assert set(found) == {("test", f"i128-o32-rinf-cinf-rep{n}") for n in (0, 1)}
    assert len(set(found.values())) == 2
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in found.values())


@pytest.mark.parametrize("prefill", [0, 1])
def test_keys_do_not_depend_on_the_ports_that_were_free(make_config: MakeConfig, prefill: int) -> None:
    config = make_config({"topology.route": 1 if prefill else 2, "topology.prefill": prefill, "cluster.one_host": True})
    taken = {("127.0.0.1", port) for port in (8000, 8001, 8005, 20000, 20003)}
    free, moved = bind(build_plan(config)), bind(build_plan(config), taken=taken)
    assert free.sets[0].engines[0].port != moved.sets[0].engines[0].port
    assert keys_of(config, VERSIONS, free) == keys_of(config, VERSIONS, moved)


def test_keys_do_not_depend_on_the_hosts_of_the_allocation(make_config: MakeConfig) -> None:
    config = make_config({"topology.route": 2})
    assert keys(config) == keys(config, hosts=[Host(f"n{i}", f"10.0.{i}.7", "ib0") for i in range(4)])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"limits.point_s": 60.0}, id="the router's deadline"),
        pytest.param({"limits.wall_hours": 1.0, "limits.stop_s": 1.0, "run_root": "elsewhere"}, id="limits and folders"),
    ],
)
def test_keys_stay(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert keys(make_config({"topology.route": 2})) == keys(make_config({"topology.route": 2, **changes}))


def test_keys_of_pd_arms_change_with_the_transport_that_is_asked(make_config: MakeConfig) -> None:
    """What was measured over TCP is not done when RDMA is asked. That engines tell what they use changes no number."""
    base = {"topology.route": 1, "topology.prefill": 1}
    rdma = {"cluster.network.transport": c.Transport.rdma}
    assert set(keys(make_config(base)).values()).isdisjoint(keys(make_config({**base, **rdma})).values())
    assert keys(make_config({"topology.route": 2})) == keys(make_config({"topology.route": 2, **rdma}))
    assert keys(make_config(base)) == keys(make_config({**base, "cluster.env": {"UCX_PROTO_INFO": "y"}}))


@pytest.mark.parametrize("network", [{"cluster.network.interface": "ib0"}, {"cluster.network.cidr": "10.79.0.0/16"}])
def test_keys_change_with_the_network_that_is_chosen(make_config: MakeConfig, network: dict[str, Any]) -> None:
    """Over several nodes alone, for within a node nothing passes it; and slices of one machine have no network."""
    for base, differs in (
        ({"topology.route": 4}, True),
        ({"topology.route": 1}, True),
        ({"topology.route": 1, "topology.nodes": 1}, False),
        ({"topology.route": 4, "cluster.one_host": True}, False),
    ):
        before, after = keys(make_config(base)), keys(make_config({**base, **network}))
        assert before.keys() == after.keys()
        assert set(before.values()).isdisjoint(after.values()) is differs, base


@pytest.mark.parametrize(
    "less",
    [
        pytest.param({"workload.repeats": 1}, id="fewer repeats"),
        pytest.param({"workload.sweeps": {"only": c.Sweep(input_len=[128], output_len=[32])}}, id="fewer settings"),
        pytest.param({"workload.warmup_prompts": 0}, id="another warm-up"),
    ],
)
def test_a_longer_run_goes_on_where_a_shorter_one_ended(make_config: MakeConfig, less: dict[str, Any]) -> None:
    sweeps = {"a": c.Sweep(input_len=[128, 256], output_len=[32])}
    whole = {"topology.route": 2, "workload.sweeps": sweeps, "workload.repeats": 3}
    assert keys(make_config({**whole, **less})).items() <= keys(make_config(whole)).items()


def test_an_arm_keeps_its_keys_without_the_other_sets(make_config: MakeConfig) -> None:
    arms = {f"r{n}": c.Topology(nodes=4, route=n, tensor_parallel=8) for n in (1, 2, 4)}
    assert keys(make_config({"arms": {"r2": arms["r2"]}})).items() <= keys(make_config({"arms": arms})).items()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model.dtype": "float16"}, id="dtype"),
        pytest.param({"model.path": "org/other"}, id="model"),
        pytest.param({"model.engine_args": {"max_num_seqs": 8}}, id="an engine's argument for the model"),
        pytest.param({"cluster.engine_args": {"block_size": 64}}, id="an engine's argument for the cluster"),
        pytest.param({"cluster.env": {"UCX_TLS": "tcp"}}, id="an engine's environment"),
        pytest.param({"cluster.gpu": "H200"}, id="another GPU"),
        pytest.param({"topology.extra_args": ["--max-num-seqs=4"]}, id="extra arguments"),
        pytest.param({"topology.tensor_parallel": 4}, id="tensor parallel"),
        pytest.param({"topology.router.policy": "random"}, id="the router's policy"),
        pytest.param({"workload.num_prompts": 11}, id="the number of prompts"),
        pytest.param({"workload.extra_args": ["--top-p=0.5"]}, id="the client's arguments"),
        pytest.param({"seed": 1}, id="the run's seed"),
        pytest.param({"workload.prefix_caching": True}, id="prefix caching"),
        pytest.param({"workload.stream": False}, id="whole answers"),
        pytest.param({"workload.ramp_up": c.RampUp(1, 2)}, id="a ramp"),
        pytest.param(
            {"workload.duration_s": 60.0, "workload.sweeps": {"s": c.Sweep([128], [32], max_concurrency=[4])}}, id="a time"
        ),
    ],
)
def test_keys_change_with_what_could_change_the_number(make_config: MakeConfig, changes: dict[str, Any]) -> None:
    base = {"topology.route": 2}
    assert set(keys(make_config(base)).values()).isdisjoint(keys(make_config({**base, **changes})).values())


def test_keys_change_with_what_is_in_the_data_set(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    changes = {"workload.dataset": "custom", "workload.dataset_path": str(path), "workload.sweeps": {"s": c.Sweep([0], [8])}}
    found = []
    for prompts in ("one", "one", "two"):
        path.write_text(json.dumps({"prompt": prompts}) + "\n")
        found.append(keys(make_config(changes)))
    assert found[0] == found[1]
    assert set(found[0].values()).isdisjoint(found[2].values())


def test_keys_change_with_the_versions_and_the_model_s_sizes(make_config: MakeConfig) -> None:
    config = make_config({"topology.route": 2})
    base = set(keys(config).values())
    assert base.isdisjoint(keys(config, {**VERSIONS, "vllm": "0.33.0"}).values())
    config.model.hf_config["num_hidden_layers"] += 1
    assert base.isdisjoint(keys(config).values())


def test_content_key_ignores_the_order_of_keys() -> None:
    assert content_key({"a": 1, "b": [1, 2]}) == content_key({"b": [1, 2], "a": 1})
    assert content_key({"a": [1, 2]}) != content_key({"a": [2, 1]})
    assert content_key(Path("x")) == content_key("x"), "what JSON does not know is taken by its text"
