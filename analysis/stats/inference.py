"""What arms did in each of their starts in; which kind of arm is better, by how much and how surely, out. Pure.

A start is one loading of an arm's engines, and it is the unit: measurements within one start share whatever that loading brought.
An arm has a score in each start, the logarithm of what it is judged by, and a larger score is the better one.

The interval of the ratio between the best arm of one kind and the best of the other (`compare`):

- Three starts say little about one arm's spread, so that the spread is pooled over all arms: as many degrees of freedom as arms
  times (starts - 1). An arm whose own variance is larger than the others' by an F test (5 % of its right side, shared by the arms)
  stays out of the pool and keeps its own. One that stays in counts with the pooled variance or its own, whichever is larger. Two
  arms alone are not pooled: they are compared by Welch's test.
- The lower end is the largest over the first kind's arms of the smallest over the other kind's arms of each pair's lower end, and
  the upper end likewise. The lower end errs only where some arm of the first kind looks too good against the other kind's truly
  best arm, so that its level is divided by the number of the first kind's arms (Bonferroni), the upper end's by the other's.
- Choosing between the pool and an arm's own spread costs coverage. The rules above leave enough for that in the ratio; the interval
  of one arm's capacity has a level of 2 % at each end and is called 95 %.
- An arm with fewer starts has wider intervals, and is named as the best of its kind only where it is surely better.

How often all of this errs is simulated with the project's own search: tests/decisions.py, docs/answers.md.

Source: B. L. Welch 1947 with F. E. Satterthwaite's degrees of freedom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pdslurm.records.t_interval import LEVEL, f_above, half_width, t_above

ARM_LEVEL = 0.02  # of each end of the interval of one arm, where the spread may have been pooled over unlike arms
OUTLIER = 0.1  # of the F test that keeps an arm out of the pool, shared by the arms
LEAST_SD = 0.005  # two starts of one arm never differ by less than this in the long run, whatever few of them show
NO_SPREAD = (0.1, 2)  # standard deviation and degrees of freedom where every start is censored, so that nothing shows a spread
INTEREST = 0.05  # the smallest difference that matters to anybody, as a share

BETTER, WORSE, SAME, UNDECIDED, ONE_START = "better", "worse", "the same", "cannot be told", "one start"


@dataclass(frozen=True)
class Score:
    """One start of an arm: the logarithm of what it did, and within which bounds that is known from this start alone. `value` is
    NaN where only the bounds are known; an end is infinite where it is open. `unseen`: by how much every start's value may be too
    large, for a reason that more starts do not average out."""

    value: float
    low: float
    high: float
    unseen: float = 0.0

    @property
    def middle(self) -> float:
        """The value, or what stands for it: the middle of the bounds, of half-open ones the known end."""
        if not math.isnan(self.value):
            return self.value
        if math.isinf(self.low) or math.isinf(self.high):
            return self.high if math.isinf(self.low) else self.low
        return (self.low + self.high) / 2

    @property
    def is_open(self) -> bool:
        return math.isnan(self.value) and (math.isinf(self.low) or math.isinf(self.high))

    def end(self, which: str) -> float:
        """`low` or `high`: for averages over starts the value itself where there is one, for `low` without what may be too much."""
        end: float = getattr(self, which)
        return end if math.isnan(self.value) else self.value - (self.unseen if which == "low" else 0.0)


def exact(value: float) -> Score:
    """A score that is known."""
    return Score(value, value, value)


@dataclass(frozen=True)
class Spread:
    """The variance of an arm's scores from start to start, and its degrees of freedom: 0 where nothing shows it."""

    variance: float
    freedom: int
    pooled: bool = False


@dataclass(frozen=True)
class Comparison:
    """The best arm of each kind, and the first one's number over the second one's: `value` within [low, high], 95 %. With one start
    of each arm the interval holds for that start alone. `outcome` is BETTER where the first is."""

    first: str
    second: str
    value: float
    low: float
    high: float
    outcome: str
    starts: tuple[int, int] = (1, 1)  # the fewest of an arm of each kind
    interest: float = INTEREST  # the smallest difference that it was judged by

    @property
    def is_apart(self) -> bool:
        """Whether the interval excludes equality."""
        return self.low > 1.0 or self.high < 1.0

    def inverse(self) -> Comparison:
        """The same of a number of which less is better: the ratio of the numbers is the inverse of the ratio of the scores."""
        value, low, high = (1 / end if end else math.inf for end in (self.value, self.high, self.low))
        return replace(self, value=value, low=low, high=high)


def ratio_text(found: Comparison) -> str:
    """`2.6 [2.1, 3.2]`: how many times the second's number the first's is; `2.6 or more` and the like where an end is open.
    Without ends the number alone, or words where that is not known either."""
    low, high = found.low > 0, found.high < math.inf
    if low and high:
        return f"{digits(found.value)} [{digits(found.low)}, {digits(found.high)}]"
    if low or high:
        return f"{digits(found.low)} or more" if low else f"{digits(found.high)} or less"
    return "an unknown number of" if math.isnan(found.value) else digits(found.value)


def times_text(found: Comparison) -> str:
    """`×2.6`."""
    return f"×{digits(found.value)}"


def digits(value: float) -> str:
    """Three digits; a whole number from 1000 on."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def of_repeats(values: Sequence[float]) -> Score:
    """The mean over one start's repeats; its bounds are the repeats' 95 % t interval, and open for fewer than three."""
    mean = math.fsum(values) / len(values)
    half = half_width(values)
    if math.isnan(half):
        return Score(mean, -math.inf, math.inf)
    half = max(half, t_above(0.025, len(values) - 1) * LEAST_SD / math.sqrt(len(values)))
    return Score(mean, mean - half, mean + half)


Arms = Mapping[str, Sequence[Score]]  # an arm's name → its score in each start


def spreads(arms: Arms) -> dict[str, Spread]:
    """Each arm's variance from start to start: pooled where the arms are alike."""
    own = {name: _own(scores) for name, scores in arms.items()}
    known = [name for name in own if own[name].freedom]
    alike = _alike({name: own[name] for name in known}) if len(arms) > 2 else []
    if not alike:
        return {name: _floored(each if each.freedom else _of_others(own, known)) for name, each in own.items()}
    freedom = sum(own[name].freedom for name in alike)
    pooled = sum(own[name].variance * own[name].freedom for name in alike) / freedom
    return {
        name: _floored(Spread(max(pooled, each.variance), freedom, pooled=True) if name in alike or not each.freedom else each)
        for name, each in own.items()
    }


def _own(scores: Sequence[Score]) -> Spread:
    values = [score.middle for score in scores if not score.is_open]
    if len(values) < 2:
        return Spread(math.nan, 0)
    mean = math.fsum(values) / len(values)
    return Spread(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1), len(values) - 1)


def _of_others(own: Mapping[str, Spread], known: Sequence[str]) -> Spread:
    """What stands for the spread of an arm that shows none: the largest of the others'."""
    return max((own[name] for name in known), key=lambda each: each.variance, default=Spread(math.nan, 0))


def _floored(spread: Spread) -> Spread:
    if not spread.freedom:
        return Spread(NO_SPREAD[0] ** 2, 0)
    return Spread(max(spread.variance, LEAST_SD**2), spread.freedom, spread.pooled)


def _alike(own: Mapping[str, Spread]) -> list[str]:
    """The arms whose variances may be pooled: the largest is left out while an F test finds it larger than the others' pool."""
    alike = sorted(own, key=lambda name: own[name].variance)
    while len(alike) > 1:
        *others, largest = alike
        freedom = sum(own[name].freedom for name in others)
        pooled = max(sum(own[name].variance * own[name].freedom for name in others) / freedom, LEAST_SD**2)
        if own[largest].variance <= pooled * f_above(OUTLIER / len(alike), own[largest].freedom, freedom):
            break
        alike = others
    return alike if len(alike) > 1 else []


def compare(first: Arms, second: Arms, *, interest: float = INTEREST) -> Comparison | None:
    """The best of `first` against the best of `second`; None where one of them is empty. `interest`: differences below this share
    matter to nobody, so that an interval within them says "the same"."""
    if not first or not second:
        return None
    arms = {**first, **second}
    if all(len(scores) == 1 for scores in arms.values()):
        return replace(_within_one_start(first, second), interest=interest)
    spread = spreads(arms)
    low = max(min(_end(arms, spread, (i, j), -1, len(first)) for j in second) for i in first)
    high = min(max(_end(arms, spread, (i, j), +1, len(second)) for i in first) for j in second)
    best, other = (_best(some, spread) for some in (first, second))
    middle = _ratio(arms[best], arms[other], low, high)
    starts = tuple(min(map(len, some.values())) for some in (first, second))
    outcome = outcome_of(low, high, interest)
    return Comparison(best, other, _exp(middle), _exp(low), _exp(high), outcome, (starts[0], starts[1]), interest)


def outcome_of(low: float, high: float, interest: float = INTEREST) -> str:
    """What the interval of a difference of scores says. A difference that is sure and surely below `interest` is "the same"."""
    small = math.log1p(interest)
    if -small <= low and high <= small:
        return SAME
    return BETTER if low > 0 else WORSE if high < 0 else UNDECIDED


def _within_one_start(first: Arms, second: Arms) -> Comparison:
    """The arms by what one start of each shows, within the bounds of that start; other starts may differ from it."""
    best, other = (max(sorted(some), key=lambda name: some[name][0].middle) for some in (first, second))
    low = max(min(first[i][0].low - second[j][0].high for j in second) for i in first)
    high = min(max(first[i][0].high - second[j][0].low for i in first) for j in second)
    middle = _ratio(first[best], second[other], low, high)
    return Comparison(best, other, _exp(middle), _exp(low), _exp(high), ONE_START)


def _ratio(first: Sequence[Score], second: Sequence[Score], low: float, high: float) -> float:
    """The difference of two arms' mean scores, within its interval; NaN where all that is known is that both ends are open."""
    if math.isinf(low) and math.isinf(high) and any(score.is_open for score in (*first, *second)):
        return math.nan
    return min(max(_mean(first, _middle) - _mean(second, _middle), low), high)


def _end(arms: Arms, spread: Mapping[str, Spread], pair: tuple[str, str], sign: int, arms_of_kind: int) -> float:
    """One end of the interval of the difference between two arms' scores: the upper one for sign +1, the lower for -1."""
    (one, other), ends = pair, ("low", "high") if sign < 0 else ("high", "low")
    middle = _mean(arms[one], lambda score: score.end(ends[0])) - _mean(arms[other], lambda score: score.end(ends[1]))
    parts = [(spread[name].variance / len(arms[name]), spread[name]) for name in pair]
    return middle + sign * t_above(LEVEL / arms_of_kind, freedom_of(parts)) * math.sqrt(sum(part for part, _ in parts))


def freedom_of(parts: Sequence[tuple[float, Spread]]) -> float:
    """Degrees of freedom of a sum of variances: the pool's own where both come from it, else Satterthwaite's."""
    if all(spread.pooled for _, spread in parts):
        return parts[0][1].freedom
    freedom = sum(p for p, _ in parts) ** 2 / sum(p**2 / (s.freedom or NO_SPREAD[1]) for p, s in parts)
    return max(round(freedom, 3), 1.0)


def _best(arms: Arms, spread: Mapping[str, Spread]) -> str:
    """The arm of the largest mean among those with the most starts, unless one with fewer is surely better still."""
    most = max(map(len, arms.values()))
    best, *others = sorted(arms, key=lambda name: (len(arms[name]) < most, -_mean(arms[name], _middle), name))
    surely = [name for name in others if len(arms[name]) < most and _end(arms, spread, (name, best), -1, len(arms)) > 0]
    return max(surely, key=lambda name: _mean(arms[name], _middle), default=best)


def interval(arm: str, spread: Mapping[str, Spread], scores: Sequence[Score]) -> tuple[float, float, float]:
    """An arm's mean score over starts and its 95 % interval; of one start that start's own bounds."""
    if len(scores) == 1:
        return scores[0].middle, scores[0].low, scores[0].high
    half = t_above(ARM_LEVEL, spread[arm].freedom or NO_SPREAD[1]) * math.sqrt(spread[arm].variance / len(scores))
    low, high = _mean(scores, lambda score: score.end("low")) - half, _mean(scores, lambda score: score.end("high")) + half
    return _mean(scores, _middle), low, high


def _middle(score: Score) -> float:
    return score.middle


def _mean(scores: Sequence[Score], value: Callable[[Score], float]) -> float:
    return sum(map(value, scores)) / len(scores)  # fsum refuses infinite ends of both signs


def _exp(value: float) -> float:
    if math.isnan(value):
        return math.nan  # the constant itself, so that equal comparisons are equal
    return math.inf if value == math.inf else math.exp(value)
