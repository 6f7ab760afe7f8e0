"""How well the mean of a few repeats is known."""

from __future__ import annotations

import math

import pytest

from pdslurm.records.t_interval import f_above, half_width, relative_half_width, t_95, t_above


@pytest.mark.parametrize(("freedom", "t"), [(1, 12.706), (2, 4.303), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980)])
def test_t_95_is_the_table_s(freedom: int, t: float) -> None:
    assert t_95(freedom) == pytest.approx(t, abs=5e-4)
    assert math.isnan(t_95(0))


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ((), math.nan),
        ((1.0, 2.0), math.nan),
        ((10.0, 10.0, 10.0), 0.0),
        ((9.0, 10.0, 11.0), 4.302653 / math.sqrt(3)),
        ((1.0, 2.0, 3.0, 4.0), 3.182446 * math.sqrt(5 / 3) / 2),
    ],
)
def test_half_width(values: tuple[float, ...], half: float) -> None:
    assert half_width(values) == pytest.approx(half, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("values", "share"),
    [
        ((9.0, 10.0, 11.0), 4.302653 / math.sqrt(3) / 10),
        ((-9.0, -10.0, -11.0), 4.302653 / math.sqrt(3) / 10),
        ((-1.0, 0.0, 1.0), math.inf),
        ((0.0, 0.0, 0.0), math.nan),
        ((5.0,), math.nan),
        ((), math.nan),
    ],
)
def test_relative_half_width(values: tuple[float, ...], share: float) -> None:
    assert relative_half_width(values) == pytest.approx(share, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("share", "freedom", "t"),
    [(0.005, 4, 4.604), (0.0005, 9, 4.781), (0.05, 1, 6.314), (0.05, 7, 1.895), (0.02, 3.077, 3.428), (0.025, 2.5, 3.575)],
)  # those between whole numbers by integrating the density
def test_a_point_of_student_s_t_for_any_share(share: float, freedom: float, t: float) -> None:
    assert t_above(share, freedom) == pytest.approx(t, abs=5e-4)


@pytest.mark.parametrize(
    ("share", "first", "second", "f"),
    [(0.05, 3, 5, 5.409), (0.05, 1, 4, 7.709), (0.01, 10, 20, 3.368), (0.02, 2, 8, 4 * (0.02 ** (-1 / 4) - 1))],
)
def test_a_point_of_the_ratio_of_two_variances(share: float, first: int, second: int, f: float) -> None:
    assert f_above(share, first, second) == pytest.approx(f, abs=6e-4)
