"""Pictures of the planner (paper 3.3): predicted against measured, memory and time by part; pure functions from its numbers."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from openherd.report.figures import BLUE, GREEN, GREY, HATCH, PURPLE, VERMILION, dressed
from openherd.report.markup import document, element, figure, join, paragraph, table

GIB = 2**30
WITHIN = 0.15  # the band around the diagonal
# Eight parts in four colours, plain and hatched, so that they are told apart without colour too.
LOOKS = [(colour, shape) for shape in ("", "/") for colour in (BLUE, VERMILION, GREEN, PURPLE)] + [(GREY, ""), (GREY, "/")]
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star")
LEAST_GIB = 0.01


def predicted_measured(points: Sequence[tuple[str, str, float, float, bool]], axis: str) -> go.Figure:
    """Predicted over measured values, both axes logarithmic: (set, label, measured, predicted, held out).

    Held-out rows are filled, fitted ones hollow; the dotted lines are 15% off.
    """
    drawing = go.Figure()
    values = [value for _, _, measured, predicted, _ in points for value in (measured, predicted)]
    ends = [min(values) / 1.3, max(values) * 1.3]
    for factor, dash in ((1.0, "solid"), (1 + WITHIN, "dot"), (1 / (1 + WITHIN), "dot")):
        drawing.add_scatter(
            x=ends,
            y=[factor * end for end in ends],
            mode="lines",
            line={"color": GREY, "width": 1, "dash": dash},
            hoverinfo="skip",
            showlegend=False,
        )
    for number, name in enumerate(dict.fromkeys(set_name for set_name, *_ in points)):
        colour, symbol = LOOKS[number % 4][0], SYMBOLS[number % len(SYMBOLS)]
        for held_out in (False, True):
            chosen = [p for p in points if p[0] == name and p[4] == held_out]
            if not chosen:
                continue
            what = "held out" if held_out else "fitted"
            drawing.add_scatter(
                name=f"{html.escape(name)}, {what}",
                x=[p[2] for p in chosen],
                y=[p[3] for p in chosen],
                mode="markers",
                marker={
                    "color": colour,
                    "symbol": symbol if held_out else f"{symbol}-open",
                    "size": 8 if held_out else 7,
                    "opacity": 0.85,
                    "line": {"width": 1, "color": colour},
                },
                customdata=[html.escape(p[1]) for p in chosen],
                hovertemplate="%{customdata}<br>measured %{x:.4~g}, predicted %{y:.4~g}<extra></extra>",
            )
    drawing.update_xaxes(title_text=f"measured {axis}", type="log", range=[math.log10(end) for end in ends], **decades(ends))
    drawing.update_yaxes(title_text=f"predicted {axis}", type="log", range=[math.log10(end) for end in ends], **decades(ends))
    return dressed(drawing, 560)


def decades(ends: Sequence[float]) -> dict[str, Any]:
    """Ticks of a logarithmic axis: 1, 2 and 5 of each decade, or the decades alone where there are many."""
    first, last = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1]))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(first, last + 1) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def stacked_parts(
    bars: Sequence[str], parts: Mapping[str, Sequence[float]], axis: str, limit: tuple[float, str] | None
) -> go.Figure:
    """One horizontal bar for each of `bars`, made of `parts`; `limit` is a line across with its name."""
    drawing = go.Figure()
    for (name, values), (colour, shape) in zip(parts.items(), LOOKS, strict=False):
        drawing.add_bar(
            name=html.escape(name),
            y=[html.escape(bar) for bar in bars],
            x=list(values),
            orientation="h",
            marker={"color": colour, "pattern": {"shape": shape, **HATCH}},
            hovertemplate=f"<b>%{{y}}</b><br>{html.escape(name)}: %{{x:.3~g}}<extra></extra>",
        )
    if limit is not None:
        drawing.add_vline(x=limit[0], line={"color": VERMILION, "width": 2, "dash": "dash"})
        drawing.add_annotation(
            x=limit[0], y=1, yref="paper", text=html.escape(limit[1]), showarrow=False, yanchor="bottom", xanchor="right"
        )
    drawing.update_xaxes(title_text=axis, rangemode="tozero")
    drawing.update_yaxes(autorange="reversed", showgrid=False)
    # A legend of many parts takes several lines above the bars; without one the limit's name wants room.
    dressed(drawing, 190 + 26 * len(bars), barmode="stack", legend_traceorder="normal", bargap=0.25, showlegend=len(parts) > 1)
    return drawing.update_layout(margin_t=10 if len(parts) > 1 else 30)


def layout_name(layout: Mapping[str, Any]) -> str:
    """TP8 CP1 PP16 DP128, with what is computed again."""
    sizes = " ".join(f"{name.upper()}{layout[name]}" for name in ("tp", "cp", "pp", "dp"))
    return f"{sizes} V{layout['virtual_stages']}, {layout['recompute']}"


def memory_parts(layouts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """GiB by part at the fullest place of each layout; parts that are nowhere are left out."""
    names = [name for name in layouts[0]["memory_bytes"] if name != "total"]
    parts = {name: [layout["memory_bytes"][name] / GIB for layout in layouts] for name in names}
    return {name: values for name, values in parts.items() if max(values) > LEAST_GIB}


def time_parts(layouts: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Seconds by part of each layout; what is overlapped is in no sum."""
    names = [name for name in layouts[0]["step_s_parts"] if name != "overlapped"]
    parts = {name: [layout["step_s_parts"][name] for layout in layouts] for name in names}
    return {name: values for name, values in parts.items() if max(values) > 0}


def plan_page(plan: Mapping[str, Any], device_gib: float) -> str:
    """The page of `openherd plan --page`: memory and time by part of the best layouts, the first one's memory by place."""
    layouts = plan["layouts"]
    names = [layout_name(layout["layout"]) for layout in layouts]
    device = f"{device_gib:g} GiB"
    memory = stacked_parts(names, memory_parts(layouts), "GiB at the fullest place", (device_gib, device))
    time = stacked_parts(names, time_parts(layouts), "seconds of a step", None)
    by_place = layouts[0]["memory_bytes_by_place"]
    places = [f"place {i}, {n} layers" for i, n in enumerate(layouts[0]["layers_by_place"])]
    sections = [
        ("memory", "Memory by part", figure(memory, "Memory of the fullest place of each layout, by part.")),
        ("time", "Time by part", figure(time, "Seconds of a step of each layout, by part; communication as far as it is exposed.")),
    ]
    if len(places) > 1:
        drawing = stacked_parts(places, {"in all": [size / GIB for size in by_place]}, "GiB", (device_gib, device))
        caption = f"Memory at each place of the pipeline of {names[0]}: the first have more micro-batches on their way."
        sections.append(("places", "Memory by place", figure(drawing, caption)))
    head = ("layout", "GiB", "step s", "tokens/s/GPU", "MFU", "days", "GWh")
    looks = {"step_s": ".3g", "tokens_per_s_per_gpu": ",.0f", "mfu_attention_in_full": ".1%", "days": ".1f", "energy_gwh": ".3g"}
    rows = [
        (name, f"{layout['memory_bytes']['total'] / GIB:.1f}", *(format(layout[key], look) for key, look in looks.items()))
        for name, layout in zip(names, layouts, strict=True)
    ]
    sections.append(("table", "Layouts", table("Layouts", head, rows, right=range(1, len(head)))))
    title = f"{plan['model']} on {plan['gpus']:,} {plan['hardware']}"
    tokens = f"{plan['sequence_length']:,} tokens a sequence, {plan['batch_tokens']:,} a step"
    facts = f"{plan['precision']}, engine {plan['engine']}; {tokens}"
    return document(f"openherd plan: {title}", sections, join([element("h1", title), paragraph(facts)]))


def check_page(files: Sequence[Mapping[str, Any]]) -> str:
    """The page of `openherd plan check --page`: predicted against measured, times and memory."""
    sections = []
    for key, title, axis in (("seconds", "Step time", "seconds a step"), ("gib", "Memory", "GiB")):
        points = [
            (file["file"], row["label"], *row[key], row["held_out"])
            for file in files
            for row in file["rows"]
            if row[key] is not None
        ]
        if points:
            caption = (
                f"{title}: predicted over measured. Filled: held out, nothing was fitted on them; hollow: the half that constants "
                "were fitted on. The solid line is equality, the dotted ones are 15% off."
            )
            sections.append((key, title, figure(predicted_measured(points, axis), caption)))
    head = join([element("h1", "The planner against measured runs"), paragraph(", ".join(str(file["file"]) for file in files))])
    return document("openherd plan check", sections, head)
