# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""How cost grows, as Markdown and as a picture."""

import math
from html import escape

from report import table

COLOURS = ("#0b7a53", "#b35c1e", "#3c5aa6")
PLOT_W, PLOT_H, LEFT, TOP, GAP_X, GAP_Y, COLUMNS = 290, 140, 60, 80, 75, 115, 3
TICK_W = 26  # less than so far apart and two levels' numbers touch


def panels(document):
    """(title, axis) -> its series; those of one title side by side."""
    out = {}
    for series in document["series"]:
        out.setdefault((series["title"], series["axis"]), []).append(series)
    titles = list(dict.fromkeys(title for title, _axis in out))
    return dict(sorted(out.items(), key=lambda item: titles.index(item[0][0])))


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def markdown(document):
    machine = document["machine"]
    lines = [f"Linux {machine['kernel']}, {machine['cpus']} CPUs ({machine['cpu']}). CPU time of acme-steer's own "
             f"processes for one connection or request, the least of {document['rounds']} rounds; in brackets the most "
             "that it may be.", ""]
    for (title, axis), many in panels(document).items():
        levels = sorted({level for series in many for level in series["points"]}, key=float)
        rows = []
        for series in many:
            cells = [f"{number(series['points'][level])} ({number(series['limits'][level])})"
                     if level in series["points"] else "" for level in levels]
            rows.append([f"{series['name']}, {series['unit']}", series["promise"], *cells])
        lines += table([f"{title}, by {axis}", "promise", *map(str, levels)], rows)
    return "\n".join(lines)


def nice(top):
    """The next round number, for an axis."""
    size = 10 ** math.floor(math.log10(top))
    return next(size * step for step in (1, 1.5, 2, 3, 4, 5, 7.5, 10) if size * step >= top)


class Axes:
    """Where a panel's numbers are. Levels are on a logarithmic axis, 0 a step before the first of them."""

    def __init__(self, x, y, levels, top):
        self.x, self.y, self.top = x, y, top
        self.levels = levels
        positive = [level for level in levels if level > 0]
        self.low = math.log2(positive[0]) - (1.5 if levels[0] == 0 else 0)
        self.span = math.log2(positive[-1]) - self.low or 1

    def at_x(self, level):
        where = 0 if level == 0 else (math.log2(level) - self.low) / self.span
        return self.x + where * PLOT_W

    def at_y(self, value):
        return self.y + PLOT_H * (1 - value / self.top)


def line(axes, points, css, colour):
    path = " ".join(f"{axes.at_x(level):.1f},{axes.at_y(min(value, axes.top)):.1f}" for level, value in points)
    return f'<polyline points="{path}" class="{css}" stroke="{colour}"/>'


def frame(axes, unit, caption):
    """Axes, and what is at them."""
    out = []
    for part in (0, 0.5, 1):
        y = axes.at_y(axes.top * part)
        out.append(f'<line x1="{axes.x}" x2="{axes.x + PLOT_W}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
        text = number(axes.top * part) if part else "0"
        out.append(f'<text x="{axes.x - 6}" y="{y + 4:.1f}" class="e">{text}{" " + unit if part == 1 else ""}</text>')
    before = -math.inf
    for level in axes.levels:
        if axes.at_x(level) - before >= TICK_W:
            before = axes.at_x(level)
            out.append(f'<text x="{before:.1f}" y="{axes.y + PLOT_H + 15}" class="m">{level:,}</text>')
    out.append(f'<text x="{axes.x + PLOT_W / 2}" y="{axes.y + PLOT_H + 31}" class="c">{escape(caption)}</text>')
    return out


def plot(title, caption, many, x, y):
    levels = sorted({int(level) for series in many for level in series["points"]})
    series_points = [[(int(level), value) for level, value in series["points"].items()] for series in many]
    limits = [[(int(level), value) for level, value in series["limits"].items()] for series in many]
    shown = [points for points, series in zip(limits, many) if series["promise"] != "linear"]
    top = nice(max([value for points in series_points + shown for _level, value in points] + [0.001]) * 1.02)
    axes = Axes(x, y, levels, top)
    unit = many[0]["unit"] if many[0]["unit"] != "instructions" else ""
    out = [f'<text x="{x}" y="{y - 56}" class="t">{escape(title)}</text>', *frame(axes, unit, caption)]
    for i, (series, points, limit) in enumerate(zip(many, series_points, limits)):
        colour = COLOURS[i % len(COLOURS)]
        at = y - 40 + 14 * i
        out.append(f'<rect x="{x}" y="{at - 8}" width="9" height="9" fill="{colour}"/>')
        out.append(f'<text x="{x + 14}" y="{at}" class="s">{escape(series["name"])}</text>')
        if series["promise"] != "linear":
            out.append(line(axes, limit, "l", colour))
        out.append(line(axes, points, "p", colour))
        out += [f'<circle cx="{axes.at_x(level):.1f}" cy="{axes.at_y(value):.1f}" r="2.5" fill="{colour}"/>'
                for level, value in points]
    return out


def svg(document):
    """A small plot for each panel: what was measured, and dashed what is promised."""
    plots = list(panels(document).items())
    rows = -(-len(plots) // COLUMNS)
    width = LEFT + COLUMNS * PLOT_W + (COLUMNS - 1) * GAP_X + 25
    height = TOP + rows * (PLOT_H + GAP_Y) - 45
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" font-family="sans-serif">',
           "<style>.t{font-size:13px;font-weight:bold;fill:#222}.s{font-size:11px;fill:#444}"
           ".e{font-size:10px;fill:#666;text-anchor:end}.m{font-size:10px;fill:#666;text-anchor:middle}"
           ".c{font-size:11px;fill:#222;text-anchor:middle}"
           ".g{stroke:#ddd;stroke-width:1}.p{fill:none;stroke-width:2}"
           ".l{fill:none;stroke-width:1;stroke-dasharray:3 3;opacity:.6}</style>",
           f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for i, ((title, caption), many) in enumerate(plots):
        x = LEFT + i % COLUMNS * (PLOT_W + GAP_X)
        y = TOP + i // COLUMNS * (PLOT_H + GAP_Y)
        out += plot(title, caption, many, x, y)
    machine = document["machine"]
    out.append(f'<text x="{LEFT}" y="{height - 12}" class="s">Linux {escape(machine["kernel"])}, {machine["cpus"]} '
               f'CPUs; CPU time of acme-steer\'s own processes, less what they take at rest; the least of '
               f'{document["rounds"]} rounds; dashed: the most that it may be</text>')
    return "\n".join(out + ["</svg>", ""])
