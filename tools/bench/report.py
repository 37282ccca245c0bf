# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""The bench's results as Markdown and as a picture."""

import collections
from html import escape

# (median's name, what it is, unit's format)
ROWS = [
    ("connect_per_s", "new TLS connections/s, all CPUs busy", "{:.0f}"),
    ("connect_cpu_us", "CPU µs per connection, client's included", "{:.0f}"),
    ("resume_per_s", "the same with resumed sessions", "{:.0f}"),
    ("resume_cpu_us", "CPU µs per connection", "{:.0f}"),
    ("latency_p50_ms", "to the first byte, ms, p50", "{:.2f}"),
    ("latency_p99_ms", "p99", "{:.2f}"),
    ("latency_p999_ms", "p99.9", "{:.2f}"),
    ("requests_per_s", "keep-alive requests/s", "{:.0f}"),
    ("requests_cpu_us", "CPU µs per request", "{:.1f}"),
    ("down1_gib_per_s", "download, 1 connection, GiB/s", "{:.2f}"),
    ("down1_cpu_s_per_gib", "CPU s per GiB", "{:.2f}"),
    ("down8_gib_per_s", "download, 8 connections, GiB/s", "{:.2f}"),
    ("down8_cpu_s_per_gib", "CPU s per GiB", "{:.2f}"),
    ("up1_gib_per_s", "upload, 1 connection, GiB/s", "{:.2f}"),
    ("up1_cpu_s_per_gib", "CPU s per GiB", "{:.2f}"),
    ("up8_gib_per_s", "upload, 8 connections, GiB/s", "{:.2f}"),
    ("up8_cpu_s_per_gib", "CPU s per GiB", "{:.2f}"),
]


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def main_table(document):
    labels = document["labels"]
    rows = []
    for name, text, form in ROWS:
        values = document["medians"].get(name)
        if not values:
            continue
        text = text.replace("first byte", f"first byte at {document['rate']}/s")
        cells = [form.format(values[v]) + ("" if v == "direct" else f" ({document['ratios'][name][v]:.2f})")
                 for v in labels]
        rows.append([text, *cells])
    return table(["", *labels.values()], rows) if rows else []


def interval_table(document):
    """How sure the ratios are."""
    intervals = document["intervals"]
    labels = {v: label for v, label in document["labels"].items() if any(v in of for of in intervals.values())}
    rows = []
    for name, text, _form in ROWS:
        if intervals.get(name):
            cells = ["{:.2f} ({:.2f} to {:.2f})".format(*intervals[name][v]) if intervals[name][v] else "-"
                     for v in labels]
            rows.append([text.replace("first byte", f"first byte at {document['rate']}/s"), *cells])
    return table(["ratio to direct (95 % confidence interval)", *labels.values()], rows) if rows else []


def memory_table(document):
    rows = []
    for name, values in document["memory"].items():
        if name != "direct":
            rows.append([document["labels"][name], *(f"{kib / 1024:.1f}" for kib in values["kib"].values()),
                         f"{values['kib_per_connection']:z.1f}",
                         f"{values['kernel_kib_per_connection']:.1f}"])
        else:
            rows.append([document["labels"][name], *("-" for _ in values["kib"]), "-",
                         f"{values['kernel_kib_per_connection']:.1f}"])
        counts = list(values["kib"])
    return table(["memory", *(f"{n} connections, MiB" for n in counts), "KiB per connection",
                  "the kernel's, KiB per connection"], rows)


def window_table(document):
    rows = [[f"{rate} new connections/s", f"{acts['open_ms']['p50']:.1f}", f"{acts['open_ms']['max']:.1f}",
             f"{acts['close_ms']['p50']:.1f}", f"{acts['close_ms']['max']:.1f}"]
            for rate, acts in document["window"].items()]
    return table(["the command, ms", "open, p50", "max", "close, p50", "max"], rows)


def markdown(document):
    machine = document["machine"]
    lines = [f"Linux {machine['kernel']}, {machine['cpus']} CPUs ({machine['cpu']}), client and servers on them; "
             f"medians of {document['rounds']} rounds of {document['seconds']:g} s (latencies: "
             f"{document['rate_seconds']:g} s), p99.9 of all their connections; in brackets the ratio to direct.", ""]
    lines += main_table(document)
    lines += interval_table(document)
    if document["left_out"]:
        what = collections.Counter(text.partition(": ")[0] for text in document["left_out"])
        each = "; ".join(name if n == 1 else f"{name}, {n} times" for name, n in what.items())
        lines += [f"Left out, the client or the machine being the bottleneck: {each}.", ""]
    if document.get("memory"):
        lines += memory_table(document)
    if document.get("window"):
        lines += window_table(document)
    if document.get("lookup"):
        rows = []
        for key, text in (("passing", "window open"), ("open", "window open, all handed off"),
                          ("closed", "attached, window closed for the port")):
            rows += [[text, name, f"{ns:.0f}", f"{runs}"]
                     for name, (ns, runs) in sorted(document["lookup"][key].items())]
        lines += table(["", "BPF program", "ns per run", "runs"], rows)
    if document.get("visitor"):
        lines += [f"A visitor whose ClientHello is read in passing costs the resident process "
                  f"{document['visitor']['cpu_us']:.2f} µs of CPU ({document['visitor']['connections']} connections).", ""]
    if document.get("handoff"):
        one = document["handoff"]
        calls = ", ".join(f"{name} {n:.2f}" for name, n in one["by_name"].items() if n >= 0.05)
        lines += [f"One hand-off costs the resident process {one['cpu_us']:.1f} µs of CPU "
                  f"({one['connections']} connections) and {one['calls']:.1f} system calls: {calls}.", ""]
    return "\n".join(lines)


PANELS = [
    ("resume_per_s", "New connections/s, resumed", True),
    ("latency_p99_ms", "Time to first byte, p99, at a fixed rate", False),
    ("requests_per_s", "Keep-alive requests/s", True),
    ("down8_gib_per_s", "Download, 8 connections", True),
    ("down8_cpu_s_per_gib", "CPU per GiB, download", False),
    ("up8_gib_per_s", "Upload, 8 connections", True),
]

BAR, GAP, LABELS, WIDTH = 14, 5, 190, 250
COLOURS = {"direct": "#8a8f98", "auto": "#065336", "handoff": "#0b7a53", "relay": "#4fb286"}


def panel(document, name, title, more_is_better, x, y):
    """One metric: a bar for each variant, its ratio to direct behind it, a line where direct is."""
    ratios = document["ratios"][name]
    top = max(max(ratios.values()), 1.0)
    scale = WIDTH / top
    out = [f'<text x="{x}" y="{y}" class="t">{escape(title)}</text>',
           f'<text x="{x}" y="{y + 15}" class="s">ratio to direct; {"more" if more_is_better else "less"} '
           'is better</text>']
    at = y + 25
    line_top = at - 2
    for variant, ratio in ratios.items():
        colour = COLOURS.get(variant, "#c9b27c")
        out.append(f'<rect x="{x}" y="{at}" width="{max(ratio * scale, 1):.1f}" height="{BAR}" '
                   f'fill="{colour}"/>')
        out.append(f'<text x="{x + ratio * scale + 5:.1f}" y="{at + BAR - 3}" class="v">{ratio:.2f}</text>')
        at += BAR + GAP
    out.append(f'<line x1="{x + scale:.1f}" x2="{x + scale:.1f}" y1="{line_top}" y2="{at - GAP + 2}" class="l"/>')
    return out, at


def svg(document):
    """The main metrics as ratios to direct, small bars side by side."""
    labels = list(document["labels"].values())
    row = len(labels) * (BAR + GAP) + 60
    columns = 3
    width = LABELS + columns * (WIDTH + 60)
    height = 2 * row + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
           f'width="{width}" height="{height}" font-family="sans-serif">',
           "<style>.t{font-size:13px;font-weight:bold;fill:#222}.s{font-size:10px;fill:#666}"
           ".v{font-size:11px;fill:#222}.n{font-size:11px;fill:#222;text-anchor:end}"
           ".l{stroke:#444;stroke-width:1;stroke-dasharray:2 2}</style>",
           f'<rect width="{width}" height="{height}" fill="#fff"/>']
    for number, (name, title, more) in enumerate(PANELS):
        x = LABELS + number % columns * (WIDTH + 60)
        y = 25 + number // columns * row
        if number % columns == 0:
            for i, label in enumerate(labels):
                out.append(f'<text x="{LABELS - 10}" y="{y + 25 + i * (BAR + GAP) + BAR - 3}" '
                           f'class="n">{escape(label)}</text>')
        out += panel(document, name, title, more, x, y)[0]
    machine = document["machine"]
    out.append(f'<text x="{LABELS}" y="{height - 10}" class="s">Linux {escape(machine["kernel"])}, '
               f'{machine["cpus"]} CPUs shared by client and servers, medians of {document["rounds"]} rounds; '
               f'latency at {document["rate"]} connections/s</text>')
    return "\n".join(out + ["</svg>", ""])
