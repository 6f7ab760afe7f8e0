"""The check `text` over made evidence: right, wrong, and what cannot be told."""

from __future__ import annotations

from typing import Any

import pytest

from pdslurm.validity.text import apart, text, tolerance

PLAIN = {"7": -1.0, "8": -1.5, "9": -2.0, "10": -2.5, "11": -3.0}
FAR = {"20": -0.5, "21": -1.0, "22": -1.5, "23": -2.0, "24": -2.5, "7": -9.0}


def moved(by: float, **values: float) -> dict[str, float]:
    return {token: values.get(f"t{token}", value + by) for token, value in PLAIN.items()}


def row(**changes: Any) -> dict[str, Any]:
    again = {"together": moved(1e-6), "elsewhere": moved(-2e-6)}
    right = {"prompt": "long", "tokens": 3000, "position": 0, "forced": "7", "plain": PLAIN, "arm": moved(1e-6), "again": again}
    return {**right, "changed": FAR, **changes}


def evidence(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"dtype": "float32", "plain": "engine1", "problem": None, "plain_hits": 0, "transfers": 13, "rows": rows, **changes}


def test_an_arm_without_a_handover_is_not_asked() -> None:
    check = text(None, disaggregated=False)
    assert (check.ok, check.unverified) == (None, False)


def test_a_right_text() -> None:
    check = text(evidence(row(), row(prompt="short")), disaggregated=True)
    assert (check.ok, check.unverified) == (True, False)
    assert check.evidence == {"tolerance": 1e-4, "largest": pytest.approx(1e-6), "proof": pytest.approx(8.0 / 1e-4), "rows": 2}


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
    assert "prompt long of 3000 tokens, position 2" in check.said
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
            evidence(row(arm=PLAIN), dtype="float32", rows=[row(again={"together": moved(0.3)})]), "tolerances", id="loose"
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
    [("float32", 1e-6, 1e-4), ("float32", 1e-3, 4e-3), ("bfloat16", 0.001, 0.05), ("bfloat16", 0.03, 0.12), ("nosuch", 0.0, 0.05)],
)
def test_the_tolerance_is_what_plain_answers_differ_by_and_a_floor(dtype: str, seen: float, limit: float) -> None:
    assert tolerance([row(again={"decoded": moved(seen)})], dtype) == pytest.approx(limit)


def test_a_token_that_a_list_lacks_is_no_likelier_than_its_last() -> None:
    assert apart(PLAIN, {"7": -1.0, "8": -1.5, "9": -2.0, "10": -2.5, "12": -2.9}) == pytest.approx(0.1)
    forced = {**{token: value for token, value in PLAIN.items() if token != "7"}, "13": -2.0, "14": -20.0}
    assert apart(PLAIN, forced) == pytest.approx(2.0), "the forced token, which is far below the likeliest, is no bound"
