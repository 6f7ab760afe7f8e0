"""The check `text` over made evidence: right, wrong, and what cannot be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pdslurm.validity.text import PROOF, apart, distances, text, tolerance

H100 = Path(__file__).with_name("text_h100_bf16.json")  # 1P1D of two H100s, vLLM 0.24.0, Llama-3.1-8B's shape with made weights

PLAIN = {"7": -1.0, "8": -1.5, "9": -2.0, "10": -2.5, "11": -3.0}
FAR = {"20": -0.5, "21": -1.0, "22": -1.5, "23": -2.0, "24": -2.5, "7": -9.0}


def moved(by: float, **values: float) -> dict[str, float]:
    return {token: values.get(f"t{token}", value + by) for token, value in PLAIN.items()}


def row(**changes: Any) -> dict[str, Any]:
    again = {"together": moved(1e-6), "elsewhere": moved(-2e-6)}
    right = {"prompt": "long", "tokens": 1024, "position": 0, "forced": "7", "plain": PLAIN, "arm": moved(1e-6), "again": again}
    return {**right, "changed": FAR, **changes}


def evidence(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"dtype": "float32", "plain": "engine1", "problem": None, "plain_hits": 0, "transfers": 13, "rows": rows, **changes}


def test_an_arm_without_a_handover_is_not_asked() -> None:
    check = text(None, disaggregated=False)
    assert (check.ok, check.unverified) == (None, False)


def test_a_right_text() -> None:
    check = text(evidence(row(), row(prompt="short")), disaggregated=True)
    assert (check.ok, check.unverified) == (True, False)
    assert check.evidence == {
        "tolerance": 1e-4, "largest": pytest.approx(1e-6), "place_tolerance": 1e-4, "largest_at_a_place": pytest.approx(1e-6),
        "proof": pytest.approx(8.0 / 1e-4), "rows": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arm", "named"),
    [
        pytest.param(moved(0.01), "token 7 has log-probability -0.99 instead of -1", id="all moved"),
        pytest.param(moved(0.0, t9=-2.2), "up to 0.2 apart", id="one token moved"),
        pytest.param(FAR, "likeliest there: 20", id="another distribution"),
        pytest.param({"30": -0.1, "31": -4.0, "32": -5.0, "33": -6.0, "34": -7.0}, "below -7", id="no token in common"),
    ],
)
def test_a_wrong_text_says_where(arm: dict[str, float], named: str) -> None:
    check = text(evidence(row(), row(arm=arm, position=2)), disaggregated=True)
    assert check.ok is False
    assert "prompt long of 1024 tokens, position 2" in check.said
    assert named in check.said
    assert "position 0" not in check.said, "that one is right"


@pytest.mark.parametrize(("gap", "ok"), [(0.5, True), (1.5, False)])
def test_another_first_token_counts_where_plain_preferred_its_own(gap: float, ok: bool) -> None:
    """`gap` in tolerances; every log-probability of the arm is within one."""
    limit = 0.05
    plain = {**PLAIN, "8": PLAIN["7"] - gap * limit}
    arm = {**plain, "7": plain["7"] - 0.8 * limit, "8": plain["8"] + 0.8 * limit}
    made = row(plain=plain, arm=arm, again={"together": plain})
    assert text(evidence(made, dtype="bfloat16"), disaggregated=True).ok is ok


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(None, "nobody asked", id="not asked"),
        pytest.param(evidence(), "no prompt was asked", id="no rows"),
        pytest.param(evidence(row(), problem="router answers 400"), "router answers 400", id="refused"),
        pytest.param(evidence(row(), plain_hits=128), "128 tokens of the plain instances' prompts", id="plain from a cache"),
        pytest.param(evidence(row(), transfers=0), "the arm moved no KV", id="nothing handed over"),
        pytest.param(evidence(row(changed=None)), "no prompt was asked with a changed block", id="no proof"),
        pytest.param(evidence(row(changed=moved(9e-4))), "9 tolerances, and 10 are needed", id="a weak proof"),
        pytest.param(evidence(row(), row(prompt="short", changed=PLAIN)), "0 tolerances", id="one prompt without proof"),
        pytest.param(
            evidence(row(arm=PLAIN), dtype="float32", rows=[row(again={"together": moved(0.5)})]), "tolerances", id="loose"
        ),
    ],
)
def test_what_cannot_be_told_is_unverified(made: dict[str, Any] | None, said: str) -> None:
    check = text(made, disaggregated=True)
    assert (check.ok, check.unverified) == (None, True)
    assert said in check.said


def test_wrong_text_is_wrong_whatever_the_proof() -> None:
    assert text(evidence(row(arm=FAR, changed=PLAIN)), disaggregated=True).ok is False


@pytest.mark.parametrize(
    ("dtype", "seen", "limit"),
    [("float32", 1e-6, 1e-4), ("float32", 1e-3, 2e-3), ("bfloat16", 0.001, 0.05), ("bfloat16", 0.06, 0.12), ("nosuch", 0.0, 0.05)],
)
def test_the_tolerance_is_what_plain_answers_differ_by_and_a_floor(dtype: str, seen: float, limit: float) -> None:
    assert tolerance([row(again={"decoded": moved(seen)})], dtype) == pytest.approx(limit)


def test_a_token_that_a_list_lacks_is_no_likelier_than_its_last() -> None:
    assert apart(PLAIN, {"7": -1.0, "8": -1.5, "9": -2.0, "12": -2.4}) == pytest.approx(0.1)
    forced = {**{token: value for token, value in PLAIN.items() if token != "7"}, "13": -2.0, "14": -20.0}
    assert apart(PLAIN, forced) == pytest.approx(1.5), "the forced token, which is far below the likeliest, is no bound"


def test_the_distance_of_a_prompt_is_over_its_places() -> None:
    rows = [row(position=1, arm=moved(0.3)), row(position=2, arm=moved(-0.4)), row(prompt="short", arm=moved(0.1))]
    found = distances((row, row["arm"]) for row in rows)
    assert found == {"long": pytest.approx((0.25 / 2) ** 0.5), "short": pytest.approx(0.1)}


def test_a_way_that_has_few_places_is_no_tolerance() -> None:
    """A text that runs free parts from the plain one, and over one place rounding does not average out."""
    rows = [row(position=n, again={"decoded": moved(0.03)} | ({"together": moved(0.1)} if n == 0 else {})) for n in range(6)]
    assert tolerance(rows, "float16") == pytest.approx(0.06)


def test_a_prompt_that_is_wrong_as_a_whole_though_no_place_is() -> None:
    """One place of a plain answer rounds by 0.2; the arm is 0.2 off at every place."""
    rows = [row(position=n, arm=moved(0.2), again={"decoded": moved(0.2 if n == 0 else 0.0)}) for n in range(6)]
    check = text(evidence(*rows, dtype="bfloat16"), disaggregated=True)
    assert check.ok is False
    assert "the answers to prompt long are 0.2 apart" in check.said


def test_a_prompt_that_is_longer_than_those_that_prove_is_compared_all_the_same() -> None:
    right = evidence(row(tokens=1024), row(prompt="chunks", tokens=3000, changed=moved(5e-4)))
    assert text(right, disaggregated=True).ok is True
    wrong = evidence(row(tokens=1024), row(prompt="chunks", tokens=3000, arm=moved(5e-4)))
    assert text(wrong, disaggregated=True).ok is False


def test_bfloat16_on_gpus_proves_itself() -> None:
    check = text(json.loads(H100.read_text()), disaggregated=True)
    assert check.ok is True, check.said
    assert check.evidence["proof"] > PROOF


@pytest.mark.parametrize("prompt", ["long", "chunks"])
@pytest.mark.parametrize("block", ["changed_middle", "changed_end"])
def test_one_wrong_block_on_gpus_is_seen(prompt: str, block: str) -> None:
    """The arm's answers to one prompt are those to a prompt with 16 other tokens, of 1,024 or of 3,000."""
    found = json.loads(H100.read_text())
    for there in found["rows"]:
        if there["prompt"] == prompt:
            there["arm"] = there[block]
    check = text(found, disaggregated=True)
    assert check.ok is False
    assert f"prompt {prompt}" in check.said


@pytest.mark.parametrize("way", ["decoded", "together", "elsewhere"])
def test_rounding_on_gpus_is_no_wrong_text(way: str) -> None:
    """One way in which a plain instance came to the answers stands for the arm, and is no part of the tolerance."""
    found = json.loads(H100.read_text())
    for there in found["rows"]:
        if way in there["again"]:
            there["again"]["arm"], there["arm"] = there["arm"], there["again"].pop(way)
    assert text(found, disaggregated=True).ok is True
