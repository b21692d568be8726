"""How each run looks, in every figure and table: a source of targets has the same hue in all reports.

Runs of one source differ in shade, line and marker. Colours are told apart by colour-blind readers and stand out from
the light and the dark page; lines and markers say the same once more.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P")
KINDS = ("shared_heads", "target_network", "online_network", "iterated_networks", "lookahead_replicate", "none")
OTHER = len(KINDS)  # the hue of a source that is not ours
SHADES = 3
HEAT_SPAN = 50  # ours: so many % above or below the reference have the strongest colour of a heat map
HEAT_STEPS = 5  # on each side of the reference


class Paper(NamedTuple):
    """The colours that a figure is drawn in; the background is left to the page."""

    name: str
    ink: str
    faint: str
    colours: tuple[str, ...]  # of each hue its shades, one after another


class Look(NamedTuple):
    """How one run looks: the place of its colour among those of a paper, its line and its marker."""

    colour: int
    line: str
    marker: str


LIGHT = Paper(
    "light",
    "#22262b",
    "#c9ced6",
    (
        *("#0b66b0", "#074170", "#5393c7"),  # blue
        *("#c2410c", "#722607", "#d3754e"),  # orange
        *("#5b6470", "#3a4047", "#888f97"),  # grey
        *("#a03d8f", "#66275b", "#bc77b0"),  # purple
        *("#0a7d5a", "#064934", "#459d82"),  # green
        *("#6d28d9", "#471a8d", "#9a69e4"),  # violet, of runs without a source
        *("#8a6a00", "#4f3d00", "#a48c39"),  # ochre
    ),
)
DARK = Paper(
    "dark",
    "#e4e7eb",
    "#4a515b",
    (
        *("#62b5f5", "#a5d4f9", "#447eaa"),
        *("#ff9466", "#ffc1a6", "#af6646"),
        *("#aab3bf", "#c9cfd7", "#737981"),
        *("#ec9ddb", "#f3bfe7", "#9c6891"),
        *("#3fcf9f", "#83e0c1", "#298868"),
        *("#8f8cff", "#bcbaff", "#6b69bf"),
        *("#e3c04a", "#f0de9e", "#8c772e"),
    ),
)


def heat(share: float) -> int:
    """The place of an area, in % of the reference, among the colours of a heat map; the reference is in the middle."""
    return round(HEAT_STEPS * (1 + max(-1.0, min(1.0, (share - 100) / HEAT_SPAN))))


def heat_colour(paper: Paper, place: int) -> tuple[str, float]:
    """The colour at this place of a heat map, and how much of it covers the background."""
    share = (place - HEAT_STEPS) / HEAT_STEPS
    return paper.colours[0 if share > 0 else SHADES], 0.42 * abs(share)


def heat_colours(paper: Paper, background: str) -> list[str]:
    """The colours of a heat map: from orange over the background to blue, which colour-blind readers tell apart.

    They are pale enough for the ink to stand out from them.
    """
    return [_mixed(background, *heat_colour(paper, place)) for place in range(2 * HEAT_STEPS + 1)]


def _mixed(one: str, other: str, share: float) -> str:
    parts = zip(*([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (one, other)))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in parts)


def looks(kinds: Mapping[str, str]) -> dict[str, Look]:
    """The look of each label, by the kind of its source of targets."""
    free = [OTHER, *(hue for hue, kind in reversed([*enumerate(KINDS)]) if kind not in kinds.values())]
    strange = [kind for kind in dict.fromkeys(kinds.values()) if kind not in KINDS]
    hues = dict(zip(KINDS, range(len(KINDS)))) | {kind: free[min(at, len(free) - 1)] for at, kind in enumerate(strange)}
    taken: Counter[int] = Counter()
    found = {}
    for label, kind in kinds.items():
        hue = hues[kind]
        turn = taken[hue]
        colour, line = SHADES * hue + turn % SHADES, hue + turn
        marker = hue - 2 * turn - turn // 12  # after 12 runs shade and line are those of the first again
        found[label] = Look(colour, LINES[line % len(LINES)], MARKERS[marker % len(MARKERS)])
        taken[hue] += 1
    return found
