"""Judged records in, the report's part on what each arm suffers from out."""

from __future__ import annotations

import pandas as pd

from analysis.report.markup import Markup, html_table
from analysis.stats.diagnosis import diagnoses

HEADING = ["arm", "suffers from", "seen", "evidence", "what may cure it"]
CAPTION = "Read from what was counted in measurements that are valid, or invalid for nothing but what stands here"


def section(judged: pd.DataFrame) -> Markup | None:
    """A table with a row for each arm and ailment; None where nothing is wrong."""
    rows = [[each.arm, each.ailment, each.where, each.evidence, each.cure] for each in diagnoses(judged)]
    return html_table(HEADING, rows, caption=CAPTION) if rows else None
