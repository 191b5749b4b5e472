"""What `openherd plan` prints: layouts in a table, the best one part by part, errors beside; or all of it as plain values."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from openherd.planning.constants import FITTED, constants
from openherd.planning.cost import Cost, Prices, cost
from openherd.planning.memory import FILLED, GIB, Memory
from openherd.planning.search import Job, Layout, Plan
from openherd.planning.validation import MEASURED, nearest_validation

TIMES = {
    "compute": "products, and what goes through memory",
    "attention": "attention",
    "tp": "tensor parallel, exposed",
    "cp": "context parallel, exposed",
    "pp": "pipeline, sent and received",
    "dp": "data parallel, exposed",
    "bubble": "pipeline bubble",
    "optimizer": "optimizer",
}


def figures(job: Job, layout: Layout, prices: Prices) -> dict[str, Any]:
    """A layout's figures as plain values: bytes, seconds, FLOPs."""
    step, seconds = layout.step, layout.seconds
    per_gpu = job.batch_tokens / seconds / job.gpus
    speeds = {name: float(step.flops(causal=causal)) / seconds / job.gpus for name, causal in (("causal", True), ("full", False))}
    peak = job.hardware.peak(job.precision)
    needs: Cost = cost(job.gpus, seconds * job.tokens / job.batch_tokens, prices)
    place = int(np.argmax(layout.memory.total[0]))
    names = ("tp", "cp", "pp", "dp", "replicas", "virtual_stages", "micro_batch", "recompute", "sharding")
    return {
        "layout": {name: getattr(step, name) for name in names} | {"micro_batches": int(step.micro_batches)},
        "fits": bool(layout.fits(job)),
        "fullest_place": place,
        "memory_bytes": {name: value[place] for name, value in by_place(layout.memory).items()},
        "memory_bytes_by_place": by_place(layout.memory)["total"],
        "layers_by_place": [int(n) for n in step.layers[0]],
        "step_s": seconds,
        "step_s_parts": {name: float(np.ravel(getattr(layout.time, name))[0]) for name in (*TIMES, "overlapped")},
        "bubble_share": float(layout.time.bubble[0, 0]) / (seconds - float(layout.time.bubble[0, 0])),
        "tokens_per_s_per_gpu": per_gpu,
        "tflops_per_gpu": speeds["causal"] / 1e12,
        "tflops_per_gpu_attention_in_full": speeds["full"] / 1e12,
        "mfu": speeds["causal"] / peak,
        "mfu_attention_in_full": speeds["full"] / peak,
        **asdict(needs),
    }


def by_place(memory: Memory) -> dict[str, list[float]]:
    """Bytes of every part at every place."""
    n = memory.total.shape[1]
    parts = {f.name: getattr(memory, f.name) for f in fields(Memory)} | {"total": memory.total}
    return {name: [float(v) for v in np.broadcast_to(value, (1, n))[0]] for name, value in parts.items()}


# What follows from the time of a step, and is off by as much; the rest of a cost is its settings.
OF_TIME = (
    "step_s",
    "tokens_per_s_per_gpu",
    "tflops_per_gpu",
    "mfu",
    "days",
    "gpu_hours",
    "energy_gwh",
    "co2_t",
    "rent_usd",
)


def validated(job: Job, layout: Layout) -> dict[str, Any]:
    """The measured sets nearest to a layout, the error of each figure on them, and whose constants it is reckoned with."""
    of = constants((job.hardware.kind, job.precision), job.fitted)[1]
    time, memory = (nearest_validation(job, layout.step, of_memory=m) for m in (False, True))
    return {
        "time": asdict(time),
        "memory": asdict(memory),
        "errors": {**dict.fromkeys(OF_TIME, time.time), "memory_bytes": memory.memory, "goodput": None, "devices_usd": None},
        "constants_of": " ".join(of) if of else "none fitted",
        "device_measured": job.hardware.name in MEASURED,
        "own_constants": job.fitted is not FITTED,  # which the errors are not of
    }


def plain(plan: Plan, prices: Prices) -> dict[str, Any]:
    """A plan as plain values: `openherd plan --json`."""
    job = plan.job
    return {
        "model": job.model,
        "gpus": job.gpus,
        "hardware": job.hardware.name,
        "precision": job.precision,
        "engine": job.engine.name,
        "sequence_length": job.sequence_length,
        "batch_tokens": job.batch_tokens,
        "tokens": job.tokens,
        "prices": asdict(prices),
        "layouts": [{**figures(job, layout, prices), "validation": validated(job, layout)} for layout in plan.best],
        "rejected": [{"layout": name, "why": why} for name, why in plan.rejected],
        "counts": dict(plan.counts),
    }


def columns(table: Sequence[Sequence[str]]) -> list[str]:
    """Rows whose columns end below each other."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in table]


def plan_text(plan: Plan, prices: Prices) -> str:
    """What `openherd plan` prints."""
    job = plan.job
    head = (
        f"{job.model}, {job.gpus:,} x {job.hardware.name}, {job.precision}, engine {job.engine.name}: sequences of "
        f"{job.sequence_length:,} tokens, {job.batch_tokens:,} tokens a step, {job.tokens:.4g} in all"
    )
    lines = [head, ""]
    if plan.best:
        rows = [
            [
                "TP",
                "CP",
                "PP",
                "V",
                "DP",
                "micro",
                "recompute",
                "shares",
                "GiB",
                "step s",
                "tokens/s/GPU",
                "MFU",
                "days",
                "GWh",
                "M$ rent",
            ]
        ]
        for layout in plan.best:
            s, f = layout.step, figures(job, layout, prices)
            speed = [f"{layout.peak_gib:.1f}", f"{f['step_s']:.3g}", f"{f['tokens_per_s_per_gpu']:,.0f}"]
            more = [f"{f['mfu_attention_in_full']:.1%}", f"{f['days']:.1f}", f"{f['energy_gwh']:.3g}", f"{f['rent_usd'] / 1e6:.3g}"]
            degrees = [f"{s.tp}", f"{s.cp}", f"{s.pp}", f"{s.virtual_stages}", f"{s.dp:,}"]
            rows.append([*degrees, f"{int(s.micro_batches)} x {s.micro_batch}", s.recompute, s.sharding, *speed, *more])
        lines += [*columns(rows), "", *layout_text(job, plan.best[0], prices)]
    else:
        lines.append("no layout fits")
    if plan.rejected:
        lines += ["", f"do not fit, whatever is computed again ({FILLED:.0%} of a device counts):"]
        lines += [f"  {name:<26} {why}" for name, why in plan.rejected]
    if plan.counts:
        lines += ["", "of all: " + "; ".join(f"{n:,} {what}" for what, n in plan.counts.items())]
    return "\n".join(lines)


def layout_text(job: Job, layout: Layout, prices: Prices) -> list[str]:
    """One layout, part by part, with the errors of the nearest measured runs."""
    f, step = figures(job, layout, prices), layout.step
    place, memory = f["fullest_place"], f["memory_bytes"]
    shown = [(name, size) for name, size in memory.items() if name != "total" and size > 0.005 * GIB]
    fits = "fits" if f["fits"] else f"DOES NOT FIT ({FILLED:.0%} of it counts)"
    lines = [
        f"{layout.name}",
        f"  {memory['total'] / GIB:.1f} GiB of {job.hardware.memory_gib:g} at the fullest place ({place} of {step.pp}, "
        f"{f['layers_by_place'][place]} layers): {fits}",
        *(f"    {size / GIB:8.2f} GiB  {name}" for name, size in shown),
    ]
    if step.pp > 1:
        lines.append("    by place: " + " ".join(f"{size / GIB:.1f}" for size in f["memory_bytes_by_place"]))
    parts = f["step_s_parts"]
    lines += [f"  {f['step_s']:.3f} s a step, {f['layout']['micro_batches']} micro-batches a process"]
    lines += [
        f"    {parts[name]:8.3f} s  {parts[name] / f['step_s']:5.1%}  {what}" for name, what in TIMES.items() if parts[name] > 0
    ]
    lines += [f"    {parts['overlapped']:8.3f} s         data parallel, beside computation"] if parts["overlapped"] > 0 else []
    if step.pp > 1:
        alike = f"(PP - 1) / (V M) = {ideal_bubble(layout):.1%} were all places alike"
        lines.append(f"    the bubble is {f['bubble_share']:.1%} of the rest; {alike}")
    full = f"{f['tflops_per_gpu_attention_in_full']:.0f} TFLOP/s, MFU {f['mfu_attention_in_full']:.1%}, attention counted in full"
    causal = f"{f['tflops_per_gpu']:.0f} and {f['mfu']:.1%} counted causally"
    power = f"{prices.power_w:,.0f} W a GPU with its server, PUE {prices.pue:g}"
    goodput = f"a goodput of {f['goodput']:.1%} (checkpoints every {f['checkpoint_interval_s']:,.0f} s)"
    lines += [
        f"  {f['tokens_per_s_per_gpu']:,.1f} tokens/s/GPU; {full}, as the paper; {causal}",
        f"  {f['days']:.1f} days at {goodput}; {f['gpu_hours']:,.0f} GPU hours",
        f"  {f['energy_gwh']:.3g} GWh ({power}); {f['co2_t']:,.0f} t CO2 at {prices.kg_per_kwh:g} kg/kWh",
        f"  ${f['rent_usd']:,.0f}, ${prices.hour_usd:g} a GPU hour; ${f['devices_usd']:,.0f} for GPUs of ${prices.price_usd:,.0f}",
    ]
    time, held = (nearest_validation(job, step, of_memory=m) for m in (False, True))
    key = job.hardware.kind, job.precision
    of = constants(key, job.fitted)[1]
    lines += ["  errors on measured runs that nothing was fitted on, the nearest:"]
    lines += [f"    time, and as much speed, MFU, days, energy, CO2 and rent: {time.text()}"]
    lines += [f"    memory: {held.text(of_memory=True)}"]
    lines += ["    goodput, power and prices: as you set them, with no error of their own"]
    if job.engine.name == "ours":
        lines.append("    memory of this engine: as its dry run, to the byte; no GPU has been compared, nor this engine's speed")
    if job.fitted is not FITTED:
        lines.append("    these are of the planner's own constants; how far off yours are, stands in the file of --constants")
    if of != key or job.hardware.name not in MEASURED:
        lines.append(f"    no measured run of {job.hardware.name} {job.precision}: constants of {' '.join(of) if of else 'none'}")
    return lines


def ideal_bubble(layout: Layout) -> float:
    """(PP - 1) / (V M)."""
    s = layout.step
    return float((s.pp - 1) / (s.virtual_stages * s.micro_batches))
