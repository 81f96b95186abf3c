"""Formats a benchmark's figures as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coterie.tasks import sample_of


def markdown(found: Mapping[str, Any]) -> str:
    """Formats the result of :func:`coterie.benchmark.measure.measure` as Markdown."""
    group, plain, machine = found["group"], found["plain"], found["machine"]
    recipe = found["recipe"]
    title = f"{recipe['method']['name']}, {recipe['network']['name'] or 'tiny_cifar'}, {group['students']} student(s), batch {group['images']}"
    noun = f"{sample_of(recipe['task'])}s"
    rows = [
        (f"{noun} a second, step only", f"{group['images_per_second']:,.0f}", f"{plain['images_per_second']:,.0f}"),
        (f"{noun} a second, with data", f"{group['images_per_second_with_data']:,.0f}", ""),
        (f"{noun} a second, data alone", f"{group['data_images_per_second']:,.0f}", ""),
        ("step, ms (quartiles)", _milliseconds(group["step"]), _milliseconds(plain["step"])),
        (f"operations for one of the {noun}, forward and backward, M", f"{group['operations_per_image'] / 1e6:,.1f}", f"{plain['operations_per_image'] / 1e6:,.1f}"),
        ("share of the ceiling", f"{group['share_of_ceiling']:.0%}", ""),
        ("peak memory, MiB", f"{group['peak_bytes'] / 2**20:,.0f}", ""),
    ]  # fmt: skip
    other = "plain network" if plain["method"] == "baseline" else plain["method"]
    lines = [f"# {title}", "", f"| | group | {other} |", "|---|---|---|"]
    lines += [f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in group["shares"].items())
    lines += [
        "",
        f"Time ratio {found['time_ratio']:.2f}, operations ratio {found['operations_ratio']:.2f}: **cost ratio {found['cost_ratio']:.2f}**.",
        _who_waits(group),
        *(
            [f"The step could not be recorded as a graph: {group['unrecorded_because']}"]
            if group["unrecorded_because"]
            else []
        ),
        f"Of a bare step: {shares}. The training loop adds {found['loop_overhead']:+.1%} to it.",
        f"Ceiling (large matrix product or convolution): {found['ceiling'] / 1e9:,.0f} billion operations a second. {machine.get('device', '')}, {machine.get('threads', '?')} thread(s), "
        f"torch {machine.get('versions', {}).get('torch', '?')}, {recipe['training']['precision']}. Medians of interleaved repetitions.",
        "",
        *_legend(noun, other),
        "",
    ]
    return "\n".join(lines)


def _legend(noun: str, other: str) -> list[str]:
    """Returns the meaning of the table's terms, one per line."""
    alone = (
        "one of its networks alone, trained on the labels" if other == "plain network" else "what it is compared with"
    )
    return [
        f"- group: the recipe's students and method; {other}: {alone}.",
        "- step: losses, gradients and optimizer for one batch, as the training loop does it; step only: on the same batch again and again.",
        f"- data alone: how fast the {noun} are read and prepared while nothing trains.",
        "- operations: additions and multiplications, counted; a multiplication with its addition is two.",
        "- ceiling: the fastest that this machine was seen to compute; share of it: what the step's operations reach of that.",
        "- cost ratio: time ratio over operations ratio; 1: the group pays for its operations, above 1: it pays for something else too.",
        "- bare step: losses, gradients and optimizer without the loop; its parts are timed one by one, and may overlap in it.",
    ]


def _who_waits(group: Mapping[str, Any]) -> str:
    """Describes whether the step waits for the data, from how much longer a step takes with data loading."""
    share = group["data_share"]
    faster = group["data_images_per_second"] > group["images_per_second"]
    if share < 0.05:
        return f"The data keep the step fed: they are {share:.0%} of its time."
    if faster:
        return f"The data are {share:.0%} of the step's time: they come fast enough, and share the machine with it."
    return f"The step waits for the data, {share:.0%} of the time: more data.workers, smaller files or a faster disk would help."


def _milliseconds(step: Mapping[str, float]) -> str:
    return f"{1e3 * step['median']:.2f} ({1e3 * step['low']:.2f} to {1e3 * step['high']:.2f})"
