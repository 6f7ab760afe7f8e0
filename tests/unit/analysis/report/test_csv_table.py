"""Records in, the CSV table out."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd

from analysis.load.frame import load_runs
from analysis.report.csv_table import TABLE_COLUMNS, records_table
from tests.unit.analysis.records_made import failed, invalid, record, write


def test_table_has_the_columns_and_inf_for_no_bound(tmp_path: Path) -> None:
    frame = load_runs([write(tmp_path, [record(concurrency=16, rate=0.5), failed("pd"), invalid("pd", repeat=1, value=3.0)])])
    text = records_table(frame).to_csv(index=False)
    rows = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    assert tuple(rows.columns) == TABLE_COLUMNS
    assert text.startswith(
        "arm,source,input_len,output_len,request_rate,max_concurrency,start,repeat,seed,valid,completed,failed,output_thr"
    )
    assert rows[["arm", "request_rate", "max_concurrency", "completed", "valid"]].to_numpy().tolist() == [
        ["route_2", "0.5", "16", "24", "True"],
        ["pd", "inf", "inf", "", "False"],
        ["pd", "inf", "inf", "24", "False"],
    ]
    assert rows["mean_ttft_ms"].tolist() == ["100.0", "", "3.0"]
    assert rows["invalid_reasons"].tolist() == ["", "", "prefix cache hits; 3 requests failed"]
