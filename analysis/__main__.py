"""`python -m analysis figures|table|summary|report|tuning|slo-map|diff|export RUN...`: run folders in; figures, CSV, text or a page
out.
`withdraw` marks a run as not to be relied on, `seeds` needs no run.

What takes long to import is imported by the command that needs it, so that --help and mistakes answer at once."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pdslurm.errors import ResultsError

if TYPE_CHECKING:
    import pandas as pd

    from analysis.figures.figure_files import Drawing

STYLES = ("screen", "paper")  # analysis.figures.style takes long to import
TABLES = ("csv", "latex", "text")
RUN_HELP = "a run folder (it holds points/), or a folder that contains run folders; several are put side by side"
EXAMPLES = """examples:
  python -m analysis summary runs/demo-1a2b3c
  python -m analysis figures runs/demo-1a2b3c --out figures
  python -m analysis figures runs --style paper --slo ttft_ms=500,tpot_ms=50 --only output_len=256,arm=route_4
  python -m analysis table runs | head
  python -m analysis table runs/demo-1a2b3c --format latex > table.tex
  python -m analysis withdraw runs/demo-1a2b3c --why "The client was the limit"
  python -m analysis seeds

Only measurements that are done and valid are drawn or averaged; what is left out is counted, in the caption and in the summary.
Different settings are never averaged, nor are different runs: an arm that occurs in two runs makes two lines."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Figures, a table and a short verdict from the run folders that pdslurm wrote.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    figures = commands.add_parser("figures", help="every figure that the data allow; docs/figures.md lists them")
    figures.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="where to write (default: figures/)")
    figures.add_argument("--style", choices=STYLES, default=STYLES[0], help="paper: 3.4 inches wide, 8 pt, captions in NAME.txt")
    figures.add_argument("--slo", metavar="BOUNDS", help="for goodput, as ttft_ms=500,tpot_ms=50 (default: slo in config.yaml)")
    figures.add_argument("--formats", default="pdf,png", metavar="KINDS", help="some of pdf,png,svg (default: pdf,png)")
    figures.add_argument("--jobs", type=int, metavar="N", help="processes that write figures (default: one a core, up to 4)")
    figures.add_argument("--only", metavar="WHAT", help="records of one setting or arm, as input_len=512,arm=route_4")
    table = commands.add_parser("table", help="on standard output: CSV with a line for each measurement, or a table of means")
    table.add_argument(
        "--format", choices=TABLES, default=TABLES[0], help="csv: every measurement; latex, text: a row a setting and arm"
    )
    summary = commands.add_parser("summary", help="which arm was ahead where, and what that is worth, as text")
    report = commands.add_parser("report", help="one HTML page with verdict, figures, evidence and provenance; works offline")
    report.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write (default: RUN/report.html, report.html for several)"
    )
    tuning = commands.add_parser("tuning", help="every setting that was tried before arms were compared, as a table")
    slo_map = commands.add_parser("slo-map", help="whether to disaggregate, for every SLO, from the rates that were measured")
    slo_map.add_argument("--share", type=float, metavar="PART", help="of the requests, as 0.99 (default: slo.share in config.yaml)")
    slo_map.add_argument("--ttft", type=float, metavar="MS", help="the sentences' bound (default: slo.ttft_ms in config.yaml)")
    slo_map.add_argument("--format", choices=("text", "csv"), default="text", help="csv: the table alone (default: text)")
    diff = commands.add_parser("diff", help="what differs between two runs: configuration, versions, command lines, results")
    diff.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a run folder")
    export = commands.add_parser("export", help="files for other programs")
    export.add_argument(
        "--format", required=True, choices=("csv", "llmd-benchmark-report"), help="one table, or a file a measurement"
    )
    export.add_argument("--out", required=True, type=Path, metavar="DIR", help="where to write")
    seeds = commands.add_parser("seeds", help="what five published texts claim, recomputed, with a verdict on each claim")
    seeds.add_argument("--csv", action="store_true", help="as CSV instead of a table with notes")
    withdrawal = commands.add_parser("withdraw", help="mark a run: everything drawn from it says that it was withdrawn, and why")
    withdrawal.add_argument("runs", nargs=1, type=Path, metavar="RUN", help="a run folder")
    what = withdrawal.add_mutually_exclusive_group(required=True)
    what.add_argument("--why", metavar="TEXT", help="what is wrong with the run")
    what.add_argument("--undo", action="store_true", help="take the withdrawal back")
    for command in (figures, table, summary, report, tuning, slo_map, export, diff):
        command.add_argument("--strict", action="store_true", help="a measurement with anything unverified is invalid")
    for command in (figures, table, summary, report, tuning, slo_map, export):
        command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=RUN_HELP)
        command.add_argument("--deep", action="store_true", help="compare records with the raw files behind them, token by token")
        command.add_argument("--across", metavar="WHAT", help="put records of different ones together: some of model,gpu,engine")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Carries out one command; returns the exit code: 0, or 2 with one line on standard error."""
    arguments = parser().parse_args(argv)
    try:
        sys.stdout.write(run(arguments))
        sys.stdout.flush()
    except ResultsError as error:
        print(f"analysis: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. Python would flush once more at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(arguments: argparse.Namespace) -> str:
    """What the command prints."""
    if arguments.command == "seeds":
        from analysis.seeds.claims_table import seeds

        return seeds(as_csv=arguments.csv)
    if arguments.command == "diff":
        from analysis.report.diff import diff

        return diff(*arguments.runs, strict=arguments.strict)
    if arguments.command == "withdraw":
        return withdraw(arguments)
    from analysis.load.frame import load_runs
    from analysis.load.notes import say
    from analysis.load.setup import parse_across
    from analysis.stats.repeats import strict

    frame = load_runs(arguments.runs, parse_across(arguments.across), deep=arguments.deep)
    say(frame)
    return of_frame(arguments, strict(frame) if arguments.strict else frame)


def withdraw(arguments: argparse.Namespace) -> str:
    """Writes or removes the withdrawal of one run."""
    from analysis.load import withdrawal
    from analysis.load.frame import one_run

    folder = one_run(arguments.runs[0]).folder
    if arguments.undo:
        return f"{withdrawal.undo(folder)} removed\n"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{withdrawal.withdraw(folder, withdrawal.Withdrawal(arguments.why, at, getpass.getuser()))}\n"


def of_frame(arguments: argparse.Namespace, frame: pd.DataFrame) -> str:
    """What a command prints that needs all records."""
    if arguments.command == "table":
        return table(arguments.format, frame)
    if arguments.command == "summary":
        from analysis.report.summary import summary

        return summary(frame)
    if arguments.command == "tuning":
        from analysis.report import tuning

        return tuning.text(frame)
    if arguments.command == "slo-map":
        from analysis.report.slo_table import slo_table

        return slo_table(frame, arguments.share, arguments.ttft, as_csv=arguments.format == "csv")
    if arguments.command == "report":
        from analysis.report.html_page import write_page

        folder = arguments.runs[0] if len(arguments.runs) == 1 else Path()
        return f"{write_page(frame, arguments.out or folder / 'report.html')}\n"
    if arguments.command == "export":
        from analysis.report.export import export

        return "".join(f"{path}\n" for path in export(frame, arguments.format, arguments.out))
    return "".join(f"{path}\n" for path in figures(arguments, frame))


def table(format_: str, frame: pd.DataFrame) -> str:
    """A line for each measurement as CSV, or a row for each setting and arm as LaTeX or text."""
    if format_ == "csv":
        from analysis.report.csv_table import to_csv

        return to_csv(frame)
    from analysis.report.latex_table import to_latex, to_text

    return to_latex(frame) if format_ == "latex" else to_text(frame)


def figures(arguments: argparse.Namespace, frame: pd.DataFrame) -> Iterator[Path]:
    """Draws and writes every figure that the data allow; says on standard error what was not drawn, and what it needs."""
    from analysis.figures.all_figures import drawings
    from analysis.figures.figure_files import FORMATS, cores, write_all
    from analysis.figures.style import STYLES
    from analysis.load import slo
    from analysis.load.frame import only

    chosen = only(frame, arguments.only) if arguments.only else frame
    bounds = slo.parse(arguments.slo) if arguments.slo else slo.of_runs(sorted(chosen["folder"].unique()))
    formats = tuple(arguments.formats.split(","))
    if unknown := set(formats) - set(FORMATS):
        raise ResultsError(f"formats={arguments.formats}: {sorted(unknown)[0]!r} is none; use some of {', '.join(FORMATS)}")
    drawn = _without_missing(drawings(chosen, STYLES[arguments.style], bounds))
    return write_all(drawn, arguments.out, formats, arguments.jobs or cores())


def _without_missing(drawings: Iterable[tuple[str, Drawing | str]]) -> Iterator[tuple[str, Drawing]]:
    for name, drawing in drawings:
        if isinstance(drawing, str):
            print(f"{name}: not drawn; it needs {drawing}", file=sys.stderr)
        else:
            yield name, drawing


if __name__ == "__main__":
    sys.exit(main())
