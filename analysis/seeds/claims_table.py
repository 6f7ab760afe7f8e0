"""Claims and inputs in; the table of claim, ours and verdict out, as aligned text with notes or as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from analysis.seeds import figures_read, reports, sizes
from analysis.seeds.claims import KINDS, Claim, Computed, Verdict, judge, shown
from analysis.seeds.inputs import Data, load

WIDTH = 130
CSV_COLUMNS = ("id", "source", "claim", "claimed", "ours", "unit", "verdict", "detail", "note", "formula")
FORMULAS: Mapping[str, Callable[..., Computed]] = {
    function.__name__: function
    for function in (
        sizes.kv_per_token, sizes.kv_of_prompts, sizes.kv_sent, sizes.transfer_ms, sizes.transfers_ms, sizes.link_peak,
        sizes.weights_fit, sizes.heads_divide, sizes.step_over_kv, sizes.prefill_floor_ms, sizes.prefill_ms, sizes.crossover,
        sizes.ring_link, reports.gain_of_pd, reports.latency_by_little, reports.fields_in_common, reports.delayed_by_prefill,
        reports.ttft_of_drawing, reports.tokens_covered, reports.itl_without_prefill, reports.contention_ms, reports.tp_gain,
        reports.output_rate, reports.reach_of_contention, figures_read.read_value, figures_read.read_values,
        figures_read.ratio_at, figures_read.ratios, figures_read.seconds_above, figures_read.ranked, figures_read.falls_below,
        figures_read.transfer_in_ttft, figures_read.hit_rate,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One claim with what was found and the verdict on it."""

    claim: Claim
    computed: Computed
    verdict: Verdict

    @property
    def note(self) -> str:
        return " ".join(filter(None, (self.computed.note, self.claim.remark)))


def check(data: Data) -> tuple[Line, ...]:
    """Every claim recomputed. Raises KeyError for a formula or an input that does not exist."""
    lines = []
    for claim in data.claims:
        computed = FORMULAS[claim.formula](data, **claim.inputs)
        lines.append(Line(claim, computed, judge(claim, computed)))
    return tuple(lines)


def seeds(*, as_csv: bool = False) -> str:
    """What `python -m analysis seeds` prints."""
    lines = check(load())
    return to_csv(lines) if as_csv else to_text(lines)


def to_text(lines: Sequence[Line]) -> str:
    """A block for each source, the notes below, a count of verdicts at the end."""
    cells = [("", "claim", "claimed", "ours", "unit", "verdict"), *(_cells(line) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    out = [_aligned(cells[0], widths)]
    source = ""
    for line, row in zip(lines, cells[1:], strict=True):
        if line.claim.source != source:
            source = line.claim.source
            out += ["", source]
        out.append(_aligned(row, widths))
    out += ["", "notes", *(wrapped for line in lines for wrapped in _notes(line)), "", counted(lines), ""]
    return "\n".join(out)


def to_csv(lines: Sequence[Line]) -> str:
    """The same as CSV, a line a claim, numbers without thousands separators."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for line in lines:
        claim, verdict = line.claim, line.verdict
        ours = shown(line.computed).replace(",", "")
        about = (claim.id, claim.source, claim.claim, claim.claimed, ours, claim.unit)
        writer.writerow((*about, verdict.kind, verdict.detail, line.note, claim.formula))
    return text.getvalue()


def counted(lines: Sequence[Line]) -> str:
    """`56 claims: 17 agrees, …`"""
    counts = Counter(line.verdict.kind for line in lines)
    return f"{len(lines)} claims: {', '.join(f'{kind} {counts[kind]}' for kind in KINDS)}."


def _cells(line: Line) -> tuple[str, ...]:
    claim = line.claim
    ends = "..".join(dict.fromkeys(claim.claimed.split("..")))  # 120 rather than 120..120
    said = f"~{ends}" if claim.about else ends
    return (claim.id, claim.claim, said, shown(line.computed), claim.unit, _short(line.verdict))


def _short(verdict: Verdict) -> str:
    """A verdict for the table: with its size where it has one; a longer reason stands in the notes."""
    return (
        str(verdict)
        if " times too " in verdict.detail or verdict.detail.startswith(("by ", "it is ", "there is "))
        else verdict.kind
    )


def _notes(line: Line) -> list[str]:
    detail = line.verdict.detail if _short(line.verdict) == line.verdict.kind else ""
    text = " ".join(filter(None, (f"{line.verdict}." if detail else "", line.note)))
    if not text:
        return []
    indent = " " * 11
    return textwrap.wrap(text, WIDTH, initial_indent=f"{line.claim.id:<11}", subsequent_indent=indent)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Claimed and ours to the right, the rest to the left."""
    return "  ".join(c.rjust(w) if i in (2, 3) else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))).rstrip()
