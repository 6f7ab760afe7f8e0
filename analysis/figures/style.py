"""Series and captions in, the look of a figure out: a colour, marker and dash for each arm, and an empty canvas in a style."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from seaborn import axes_style, plotting_context

from analysis.figures.figure_files import Drawing

# Eight colours that stay apart for colour-blind readers, taken from Okabe-Ito and Tol. Their L* is 0, 54, 29, 71, 42, 79, 64, 21:
# the first five are also 12 or more apart in grey print. With 7 markers and 5 dashes, 280 arms differ in something.
COLOURS = ("#000000", "#D55E00", "#004488", "#E69F00", "#AA3377", "#88CCEE", "#44AA99", "#661100")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# No dotted line among them: that is for what was not measured.
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 1.5)), "-.", (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
SIZES = {"font.size": 8.0, "axes.titlesize": 8.0, "axes.labelsize": 8.0, "xtick.labelsize": 7.0, "ytick.labelsize": 7.0}
RC: Any = {  # Any: the stubs want the literal type of every key
    # A name that only seaborn knows is left out: figures are written where it is not imported.
    **{name: value for name, value in axes_style("ticks").items() if name != "image.cmap"},
    **plotting_context("paper"),
    **SIZES,
    "legend.fontsize": 7.5,
    "pdf.fonttype": 42,  # TrueType: text in the PDF stays text, as conferences ask
    "svg.hashsalt": "pdslurm",  # the same records give the same bytes
    "text.parse_math": False,  # an arm may have a dollar sign in its name
    "hatch.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
PAPER_RC: Any = {
    **RC,
    **dict.fromkeys((*SIZES, "legend.fontsize"), 8.0),
    **{f"{axis}tick.{what}": size for axis in "xy" for what, size in (("major.size", 2.5), ("major.pad", 2.0))},
    "axes.titlepad": 3.0,
    "axes.labelpad": 2.0,
}
DENSE = 24  # points on one line, past which full markers would hide it
HEADING_SIZE, CAPTION_SIZE = 9.5, 6.5
CAPTION_ROW, CAPTION_CHARACTER, GAP = 0.122, 0.0505, 0.07
TITLE_ROW = 0.135  # inches: what a line more over a panel takes


@dataclass(frozen=True)
class Style:
    """Where a figure is to be read: its sizes in inches and fonts, and whether it carries its own heading and caption."""

    name: str
    rc: Any
    width: float  # of two panels side by side
    alone: float  # of one panel
    height: float  # of a panel
    heading: float  # its height; 0: heading and caption are the document's
    legend_row: float
    legend_character: float
    legend_handle: float  # with the space between two entries
    handle: float  # its length in ems: long enough to tell the dashes apart
    title_characters: tuple[int, int]  # a line over one panel, over one of two
    digit: tuple[float, float]  # a digit of a tick's label, as a share of the x axis of one panel, of one of two
    y_ticks: int
    marker: float  # its size, and that of lines, against the usual one
    settings: int  # panels at most, in a figure with a panel for each setting

    @property
    def explains(self) -> bool:
        return self.heading > 0

    def drawing(self, figure: Figure, caption: str) -> Drawing:
        """The figure, ready to be written."""
        return Drawing(figure, caption, self.explains, self.rc)

    def width_for(self, panels: int) -> float:
        """The figure's width in inches."""
        return self.alone if panels == 1 else self.width

    def title_for(self, panels: int) -> int:
        """How many characters fit into a line of a panel's title."""
        return self.title_characters[panels > 1]

    def wrapped(self, caption: str, panels: int) -> list[str]:
        """The caption's lines inside the figure: none where the document has the caption."""
        characters = int((self.width_for(panels) - 0.2) / CAPTION_CHARACTER)
        return textwrap.wrap(caption, characters) if self.explains else []


# Two panels side by side fill a page's text width; one alone is wider, for its title.
SCREEN = Style(
    name="screen", rc=RC, width=7.0, alone=4.6, height=2.4, heading=0.30, legend_row=0.145,
    legend_character=0.059, legend_handle=0.66, handle=4.0, title_characters=(62, 44), digit=(0.021, 0.021), y_ticks=9,
    marker=1.0, settings=6,
)  # fmt: skip
# Seed 004's two panels side by side in a column of a two-column paper, where fonts are not scaled afterwards.
PAPER = Style(
    name="paper", rc=PAPER_RC, width=3.4, alone=3.4, height=1.55, heading=0.0, legend_row=0.155,
    legend_character=0.063, legend_handle=0.50, handle=2.6, title_characters=(46, 24), digit=(0.026, 0.058), y_ticks=4,
    marker=0.7, settings=4,
)  # fmt: skip
STYLES = {style.name: style for style in (SCREEN, PAPER)}


@dataclass(frozen=True)
class SeriesStyle:
    """How the line of one series is drawn."""

    colour: str
    marker: str
    dash: str | tuple[int, tuple[float, ...]]
    hollow: bool
    size: float = 1.0  # of markers and lines

    def of_line(self, points: int = 1) -> dict[str, Any]:
        """Keyword arguments for Axes.plot and Line2D of so many points. Filled markers have a dark edge, so that light ones show on
        white paper."""
        dense = points > DENSE
        return {
            "color": self.colour,
            "marker": self.marker,
            "linestyle": self.dash,
            "linewidth": self.size * (1.0 if dense else 1.4),
            "markersize": self.size * (2 if dense else 5),
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour if self.hollow else "black",
            "markeredgewidth": 1.0 if self.hollow else 0.2 if dense else 0.5,
        }

    def of_bars(self, points: int = 1) -> dict[str, Any]:
        """Keyword arguments for Axes.errorbar."""
        dense = points > DENSE
        return {"ecolor": self.colour, "elinewidth": 0.6 if dense else 1.0, "capsize": 0 if dense else 2.5 * self.size}


def series_styles(judged: pd.DataFrame, style: Style = SCREEN) -> dict[str, SeriesStyle]:
    """The style of each series, the same in every figure and panel. What was not measured shares colour and marker with the arm
    that it predicts, but is dotted and hollow."""
    named = judged[["series", "source"]].drop_duplicates().itertuples(index=False)
    stems = {str(row.series): (str(row.series).replace(f" ({row.source})", "", 1), row.source == "measured") for row in named}
    place = {stem: i for i, stem in enumerate(sorted({stem for stem, _ in stems.values()}))}
    out = {}
    for label, (stem, measured) in sorted(stems.items(), key=lambda item: (place[item[1][0]], not item[1][1], item[0])):
        i = place[stem]
        dash = DASHES[i % len(DASHES)] if measured else ":"
        out[label] = SeriesStyle(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], dash, hollow=not measured, size=style.marker)
    return out


def label_side(figure: Figure, style: Style, label: str) -> None:
    """One label for the y axes of all panels, beside their middle: in a narrow column there is no room for one at each. Its unit
    stands below where the panels are not high enough for both in one line."""
    engine = figure.get_layout_engine()
    assert engine is not None
    _, bottom, _, high = engine.get()["rect"]
    room = 2 * min(bottom + high / 2, 1 - bottom - high / 2) * figure.get_figheight()
    if style.legend_character * len(label) > room:
        label = label.replace(" (", "\n(")
    figure.supylabel(label, y=bottom + high / 2, fontsize=mpl.rcParams["axes.labelsize"])


def handles_of(styles: Mapping[str, SeriesStyle]) -> list[Artist]:
    """A legend's entry for each series."""
    return [Line2D([], [], label=label, **line_style.of_line()) for label, line_style in styles.items()]


def columns_of(lengths: Sequence[int], style: Style, width: float) -> int:
    """The most columns that a legend with labels of so many characters can have; matplotlib fills it column by column."""
    for columns in range(len(lengths), 1, -1):
        rows, more = divmod(len(lengths), columns)
        starts = [i * rows + min(i, more) for i in range(columns + 1)]
        longest = [max(lengths[a:b]) for a, b in itertools.pairwise(starts)]
        if sum(style.legend_handle + style.legend_character * length for length in longest) <= width - 0.1:
            return columns
    return 1


def canvas(
    style: Style,
    heading: str,
    handles: Sequence[Artist],
    caption: Sequence[str],
    *,
    panels: int,
    columns: int = 2,
    heights: Sequence[float] = (),
    titles: Sequence[str] = (),
    wide: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with heading, legend and caption in margins of their own, where they cover no data, and `panels` empty axes in so
    many columns; `heights` of the rows where they are not the style's, with `titles` of one line; `wide`: one column as wide as
    two."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    width = style.width if wide else style.width_for(columns)
    legend_columns = columns_of([len(str(handle.get_label())) for handle in handles], style, width)
    top = style.heading + style.legend_row * -(-len(handles) // legend_columns) + GAP
    bottom = CAPTION_ROW * len(caption) + (2 * GAP if caption else 0.02)
    lines = [max((title.count("\n") for title in titles[i * columns : (i + 1) * columns]), default=0) for i in range(rows)]
    heights = [height + TITLE_ROW * more for height, more in zip(heights or [style.height] * rows, lines, strict=True)]
    tall = sum(heights) + top + bottom
    engine = ConstrainedLayoutEngine(rect=(0, bottom / tall, 1, 1 - (top + bottom) / tall), wspace=0.06, hspace=0.06)
    figure = Figure(figsize=(width, tall), layout=engine)
    left = (0.1 if style.explains else 0.03) / width
    if style.explains:
        figure.text(left, 1 - GAP / tall, heading, va="top", weight="bold", fontsize=HEADING_SIZE)
        figure.text(left, GAP / tall, "\n".join(caption), va="bottom", fontsize=CAPTION_SIZE, color="0.25", linespacing=1.25)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(left, 1 - (style.heading or 0.03) / tall),
        ncols=legend_columns,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        handlelength=style.handle,
        handletextpad=0.8 if style.explains else 0.5,
        columnspacing=1.4 if style.explains else 0.9,
        labelspacing=0.35 if style.explains else 0.25,
    )
    grid = figure.add_gridspec(rows, columns, height_ratios=heights)
    axes = [figure.add_subplot(grid[i // columns, i % columns]) for i in range(panels)]
    return figure, axes
