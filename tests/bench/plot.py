"""One plot as SVG: bars side by side, written by hand because it needs nothing more."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 860
_LABELS = 300
_NUMBERS = 80
_BAR = 18
_TITLE = 34
_GAP = 12
_OURS = "#2563eb"
_BARE = "#94a3b8"
_PEER = "#d97706"


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar with its label."""

    label: str
    value: float
    ours: bool = False
    bare: bool = False

    @property
    def colour(self) -> str:
        """Ours, what the database can do, and the peers each have their own."""
        return _OURS if self.ours else _BARE if self.bare else _PEER


def bars(groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Draw groups of bars below each other, each group with its title and its own scale.

    The file has its own white ground, so that it can be read on a dark page.
    """
    body: list[str] = []
    top = 0
    for title, group in groups:
        body.append(f'<text x="10" y="{top + 22}" font-weight="bold">{escape(title)}</text>')
        top += _TITLE
        most = max((bar.value for bar in group), default=0.0)
        for bar in group:
            width = (_WIDTH - _LABELS - _NUMBERS) * bar.value / most if most else 0.0
            middle = top + _BAR * 0.75
            body += [
                f'<text x="{_LABELS - 8}" y="{middle:.0f}" text-anchor="end">{escape(bar.label)}</text>',
                f'<rect x="{_LABELS}" y="{top + 2}" width="{width:.1f}" height="{_BAR - 4}" fill="{bar.colour}"/>',
                f'<text x="{_LABELS + width + 6:.1f}" y="{middle:.0f}">{bar.value:,.0f}</text>',
            ]
            top += _BAR
        top += _GAP
    size = f'viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" height="{top}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">'
    ground = f'<rect width="{_WIDTH}" height="{top}" fill="white"/>'
    return "\n".join([head, ground, *body, "</svg>\n"])
