"""Plots as SVG text, written by hand: lines, grouped bars, and a waterfall of requests."""

from __future__ import annotations

from html import escape

from perf.requests import Traffic

#: What one panel of `lines` shows: points (x, y) by series.
Panel = dict[str, list[tuple[float, float]]]

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b")
_LIMIT_COLOUR = "#888888"
#: Width of a bar with its gap.
_THICK = 24
_METHODS = {
    "GET": "#1f77b4",
    "HEAD": "#17becf",
    "POST": "#ff7f0e",
    "PUT": "#d62728",
    "PATCH": "#e377c2",
}


def _svg(width: float, height: float, parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
    style = (
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="white"/>'
    )
    return head + style + "\n".join(parts) + "</svg>\n"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = "#ccc") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _bar(x: float, y: float, width: float, height: float, *, colour: str, title: str) -> str:
    place = f'x="{x:.2f}" y="{y:.2f}" width="{max(width, 0.5):.2f}" height="{height:.2f}"'
    return f'<rect {place} fill="{colour}"><title>{escape(title)}</title></rect>'


def _colours(names: list[str]) -> dict[str, str]:
    tools = [name for name in names if name != "limit"]
    chosen = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(tools)}
    return {**chosen, "limit": _LIMIT_COLOUR}


def _legend(colours: dict[str, str], names: list[str], x: float, y: float) -> list[str]:
    parts = []
    for name in names:
        parts.append(_bar(x, y - 9, 10, 10, colour=colours[name], title=name))
        parts.append(_text(x + 14, y, name))
        x += 24 + 7 * len(name)
    return parts


def lines(panels: dict[str, Panel], label: str) -> str:
    """One panel beside the other, each with its own scale from zero; ``limit`` is grey and dashed."""
    width, height, gap = 300, 220, 60
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = _colours(names)
    parts = _legend(colours, names, gap, 20)
    for number, (title, panel) in enumerate(panels.items()):
        left = gap + number * (width + gap)
        parts += [f'<g transform="translate({left} 50)">', *_axes(panel, title, width, height)]
        parts += _curves(panel, colours, width, height)
        parts += [_text(width / 2, height + 30, label, 'text-anchor="middle"'), "</g>"]
    return _svg(gap + len(panels) * (width + gap), height + 100, parts)


def _extent(panel: Panel) -> tuple[float, float]:
    points = [point for series in panel.values() for point in series]
    return max(x for x, _ in points) or 1, max(y for _, y in points) * 1.05 or 1


def _axes(panel: Panel, title: str, width: float, height: float) -> list[str]:
    x_most, y_most = _extent(panel)
    parts = [_text(width / 2, -8, title, 'text-anchor="middle" font-weight="bold"')]
    for step in range(5):
        y = height * (1 - step / 4)
        parts.append(_line(0, y, width, y))
        parts.append(_text(-4, y + 4, f"{y_most * step / 4:.3g}", 'text-anchor="end"'))
    for x in sorted({x for series in panel.values() for x, _ in series}):
        parts.append(_text(width * x / x_most, height + 14, f"{x:g}", 'text-anchor="middle"'))
    return parts


def _curves(panel: Panel, colours: dict[str, str], width: float, height: float) -> list[str]:
    x_most, y_most = _extent(panel)
    parts = []
    for name, series in panel.items():
        drawn = [(width * x / x_most, height * (1 - y / y_most)) for x, y in sorted(series)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in drawn)
        dash = 'stroke-dasharray="4 3"' if name == "limit" else ""
        stroke = f'fill="none" stroke="{colours[name]}" stroke-width="2" {dash}'
        parts.append(f'<polyline points="{path}" {stroke}/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>' for x, y in drawn
        ]
    return parts


def bars(charts: dict[str, dict[str, dict[str, float]]]) -> str:
    """One chart below the other: title -> group -> tool -> value."""
    names = list(
        dict.fromkeys(n for chart in charts.values() for group in chart.values() for n in group)
    )
    colours = _colours(names)
    height, left, gap = 120, 60, 60
    parts = _legend(colours, names, left, 20)
    for number, (title, chart) in enumerate(charts.items()):
        top = 50 + number * (height + gap)
        parts += [
            f'<g transform="translate({left} {top})">',
            _text(0, -12, title, 'font-weight="bold"'),
        ]
        parts += [*_bar_groups(chart, colours, height), "</g>"]
    groups = max((len(chart) for chart in charts.values()), default=0)
    span = _THICK * len(names) + 30
    return _svg(left + groups * span + 20, 50 + len(charts) * (height + gap), parts)


def _bar_groups(
    chart: dict[str, dict[str, float]], colours: dict[str, str], height: float
) -> list[str]:
    names = [name for name in colours if name != "limit"]
    span = _THICK * len(names) + 30
    most = max((value for group in chart.values() for value in group.values()), default=1) or 1
    parts = [_line(0, height, len(chart) * span, height)]
    for place, (group, values) in enumerate(chart.items()):
        x = place * span
        parts.append(_text(x + span / 2 - 15, height + 14, group, 'text-anchor="middle"'))
        for name, value in values.items():
            at, tall = x + names.index(name) * _THICK, height * value / most
            tip = f"{name} {value:.3g}"
            parts.append(_bar(at, height - tall, _THICK - 3, tall, colour=colours[name], title=tip))
            label = f"{value:.1f}" if value < 100 else f"{value:.0f}"
            middle = 'text-anchor="middle" font-size="9"'
            parts.append(_text(at + (_THICK - 3) / 2, height - tall - 2, label, middle))
    return parts


def waterfall(title: str, traffic: Traffic, wall: float) -> str:
    """One row per request in the order of starts: waiting for the answer pale, receiving it full."""
    row, left, width = 13, 420, 900
    most = max([wall, *(request.end for request in traffic.requests)])
    scale = width / most
    height = 60 + row * len(traffic.requests)
    parts = [
        _text(
            10, 18, f"{title}: {len(traffic.requests)} requests, {wall:.2f} s", 'font-weight="bold"'
        )
    ]
    parts += _legend(_METHODS, list(_METHODS), left, 18)
    ticks = next(tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 1e9) if most / tick <= 16)
    for step in range(int(most / ticks) + 1):
        x = left + step * ticks * scale
        parts += [
            _line(x, 36, x, height),
            _text(x, 34, f"{step * ticks:g} s", 'text-anchor="middle"'),
        ]
    for number, request in enumerate(traffic.requests):
        y = 42 + number * row
        colour = _METHODS.get(request.method, "#555")
        size = (
            f"{request.up / 1e6:.1f} MB up"
            if request.up > request.down
            else f"{request.down / 1e6:.1f} MB down"
        )
        label = f"{request.connection:3} {request.method} {_short(request.path)} {request.status or '-'}"
        tip = f"{label} {request.start:.3f}-{request.first_byte:.3f}-{request.end:.3f} s, {size}"
        parts.append(_text(10, y + 9, label, 'font-size="10"'))
        begin, first, end = (
            left + at * scale for at in (request.start, request.first_byte, request.end)
        )
        pale = _bar(begin, y, first - begin, row - 3, colour=colour, title=tip)
        parts.append(pale.replace("<rect", '<rect fill-opacity="0.4"'))
        parts.append(_bar(first, y, end - first, row - 3, colour=colour, title=tip))
    parts.append(_line(left + wall * scale, 36, left + wall * scale, height, "#000"))
    return _svg(left + width + 60, height + 10, parts)


def _short(path: str) -> str:
    """A request's path with its digests and sessions cut."""
    words = path.partition("?")[0].removeprefix("/v2/").split("/")
    words = [word[:14] + "…" if len(word) > 30 else word for word in words]
    shown = "/".join(words)
    return shown if len(shown) < 58 else shown[:57] + "…"
