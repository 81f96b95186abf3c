"""Cost of a training step of OKDMDE and the other methods on a CPU or a GPU, by mode, relative to the plain network.

    python -m benchmarks.speed.steps modes    [--device cuda] [--output DIR]     # precision, memory format, compilation, CUDA graphs
    python -m benchmarks.speed.steps methods  [--device cuda] [--output DIR]     # the cost ratio of every online method
    python -m benchmarks.speed.steps taught   [--device cuda] [--output DIR]     # what teacher and self-distillation methods add to their networks
    python -m benchmarks.speed.steps profile  [--output DIR]                     # a GPU's kernels
    python -m benchmarks.speed.steps train --root CIFAR100 [--epochs 300]        # the paper's recipe on a GPU, with an evaluation every epoch of a tenth of the training images
    python -m benchmarks.speed.steps accuracy --root CIFAR100 [--epochs 300]     # the same in float32 and in the fastest mode, five seeds, paired

ResNet-32, four branches at layer3, CIFAR shape, batch 128, random pixels. Every row is measured against the plain network in the same
mode, in interleaved repetitions.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fixed import fixed
from benchmarks.shared import script_parser

RECIPE: dict[str, Any] = {
    "method": {"name": "okdmde"},
    "network": {"name": "resnet32_cifar", "branches": 4, "at": "layer3"},
    "training": {"batch_size": 128},
}
EAGER = {"precision": "fp32", "channels_last": False, "compile": False, "cuda_graph": False}
MODES: dict[str, dict[str, Any]] = {
    "eager float32": EAGER,
    "eager float32, channels last": {**EAGER, "channels_last": True},
    "eager bf16, channels last": {**EAGER, "channels_last": True, "precision": "bf16"},
    "graph float32": {**EAGER, "cuda_graph": True},
    "graph bf16": {**EAGER, "precision": "bf16", "cuda_graph": True},
    "graph bf16, channels last": {**EAGER, "channels_last": True, "precision": "bf16", "cuda_graph": True},
    "compiled bf16, channels last": {**EAGER, "channels_last": True, "precision": "bf16", "compile": True},
    "compiled graph float32, channels last": {**EAGER, "channels_last": True, "compile": True, "cuda_graph": True},
    "compiled graph bf16": {**EAGER, "precision": "bf16", "compile": True, "cuda_graph": True},
    "compiled graph bf16, channels last": {
        "precision": "bf16",
        "channels_last": True,
        "compile": True,
        "cuda_graph": True,
    },
}
ONLINE = (
    "okdmde",
    "independent",
    "dml",
    "cl_ilr",
    "one",
    "okddip",
    "kdcl",
    "ffl",
    "afd",
    "pcl",
    "ffsd",
    "mcl",
    "okdph",
)


def synthetic(folder: Path, count: int = 20_000, side: int = 32, classes: int = 100) -> Path:
    """Write random pixels in the shape of CIFAR-100."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for split, size in {"train": count, "test": 1000}.items():
        images = generator.integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        np.savez(folder / f"{split}.npz", images=images, labels=np.arange(size) % classes)
    return folder


def measured(changes: dict[str, Any], root: Path, repetitions: int) -> dict[str, Any]:
    """Measure one recipe and its plain network, in one process."""
    from coterie.benchmark.measure import measure
    from coterie.recipe import load_recipe

    sections = {name: {**RECIPE.get(name, {}), **changes.get(name, {})} for name in {*RECIPE, *changes} - {"teachers"}}
    sections["teachers"] = changes.get("teachers", [])
    sections["data"] = {"name": "cifar100", "root": str(root), **changes.get("data", {})}
    torch._dynamo.reset()
    found = measure(load_recipe(fixed(sections)), repetitions=repetitions)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def row(name: str, found: dict[str, Any]) -> str:
    group = found["group"]
    cells = (
        f"{1e3 * group['step']['median']:.2f}",
        f"{group['images_per_second']:,.0f}",
        f"{group['images_per_second_with_data']:,.0f}",
        f"{group['data_images_per_second']:,.0f}",
        f"{found['time_ratio']:.2f}",
        f"{found['operations_ratio']:.2f}",
        f"{found['cost_ratio']:.2f}",
        f"{found['loop_overhead']:+.1%}",
        f"{group['share_of_ceiling']:.1%}",
        f"{group['peak_bytes'] / 2**20:,.0f}",
        f"{group['shares']['optimizer']:.0%}",
    )
    return f"| {name} | " + " | ".join(cells) + " |"


HEAD = (
    "| | step, ms | images/s, step | images/s, with data | data alone, images/s | time ratio | operations ratio | cost ratio | loop adds | share of ceiling | peak MiB | optimizer, of eager parts |\n"
    "|---|" + "---|" * 11
)


def table(name: str, cases: dict[str, dict[str, Any]], device: str, output: Path, repetitions: int) -> None:
    """Measure every case, and write the table after each, so that a stop loses nothing."""
    output.mkdir(parents=True, exist_ok=True)
    lines, found = [HEAD], {}
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic(Path(folder))
        for label, changes in cases.items():
            try:
                changes["training"] = {**RECIPE["training"], **changes.get("training", {}), "device": device}
                found[label] = measured(changes, root, repetitions)
                lines.append(row(label, found[label]))
            except Exception as error:  # a mode that fails must not stop the others
                lines.append(f"| {label} | {type(error).__name__}: {str(error).splitlines()[0][:150]} |")
            print(lines[-1], flush=True)
            machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
            title = f"# {name}\n\n{machine}, torch {torch.__version__}. ResNet-32, CIFAR shape, batch 128.\n\n"
            (output / f"speed_{device}_{name}.md").write_text(title + "\n".join(lines) + "\n")
            (output / f"speed_{device}_{name}.json").write_text(json.dumps(found, indent=1))


def profile(mode: dict[str, Any], output: Path) -> None:
    """Profile the kernels of a step."""
    from coterie.benchmark.measure import Subject
    from coterie.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        data = {"name": "cifar100", "root": str(synthetic(Path(folder) / "data"))}
        training = {**RECIPE["training"], **mode}
        subject = Subject(load_recipe(fixed({**RECIPE, "data": data, "training": training})), Path(folder) / "run")
        for _ in range(10):
            subject.step()
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as recorded:
            for _ in range(10):
                subject.step_with_data()
            torch.cuda.synchronize()
    events = recorded.key_averages()
    launches = sum(each.count for each in events) / 10
    text = events.table(sort_by="self_cuda_time_total", row_limit=25, max_name_column_width=70)
    (output / "speed_cuda_profile.txt").write_text(f"{launches:.0f} kernels a step\n{text}")
    print(f"{launches:.0f} kernels a step")
    for each in sorted(events, key=lambda each: -each.self_device_time_total)[:22]:
        print(f"{each.self_device_time_total / 10:8.0f} us a step, {each.count / 10:5.1f} times  {each.key[:90]}")


# The candidates of amd's first stage, from the student's own architecture; and a teacher with an online group.
TAUGHT = (
    "coterie.methods.teacher.amd:Assistants",
    "okdmde",
    "kd",
    "dkd",
    "dist",
    "fitnet",
    "at",
    "rkd",
    "ofa",
    "diffkd",
    "stkd",
    "rl_kd",
    "byot",
    "dks",
    "ddgsd",
    "frskd",
    "multilevel",
)


def taught(mode: dict[str, Any], device: str, output: Path, repetitions: int, only: list[str] | None) -> None:
    """Measure the overhead of each method: the time of its step relative to a step of one plain network plus the teacher's forward pass, and the backward pass of its modules."""
    import timm
    from safetensors.torch import save_file

    from coterie.methods import TABLE
    from coterie.networks.papers.registration import register

    register()
    lines = [
        "| | step, ms | of a plain step and the teachers' pass | teachers | method's forward | backward | operations, of the plain network's |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        root = synthetic(Path(folder))
        weights = Path(folder) / "teacher.safetensors"
        save_file(timm.create_model("resnet56_cifar", num_classes=100).state_dict(), weights)
        teacher = {"network": "resnet56_cifar", "weights": str(weights)}
        own = Path(folder) / "own.safetensors"
        save_file(timm.create_model("resnet32_cifar", num_classes=100).state_dict(), own)
        for name in only or TAUGHT:
            changes: dict[str, Any] = {"method": {"name": name}, "network": {"branches": None, "at": None}}
            if name not in TABLE:
                changes["teacher"] = {"network": "resnet32_cifar", "weights": str(own)}
            elif name == "okdmde":
                changes["network"] = {"branches": 4, "at": "layer3"}
                changes["teacher"] = teacher
            elif TABLE[name].kind == "teacher":
                changes["teacher"] = teacher
            elif TABLE[name].kind == "multi-teacher":
                changes["teachers"] = [teacher, teacher]
            changes["training"] = {**RECIPE["training"], **mode, "device": device}
            found = measured(changes, root, repetitions)
            group, shares = found["group"], found["group"]["shares"]
            step = group["step"]["median"]
            parts = sum(shares.values())
            networks = found["plain"]["step"]["median"] + step * shares["teachers forward"] / parts
            lines.append(
                f"| {name} | {1e3 * step:.1f} | {step / networks:.2f} | {shares['teachers forward']:.0%} | {shares['method forward']:.0%} | {shares['backward']:.0%} | {found['operations_ratio']:.2f} |"
            )
            print(lines[-1], flush=True)
            machine = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
            title = f"# taught\n\n{machine}, torch {torch.__version__}. ResNet-32, CIFAR shape, batch 128; teacher ResNet-56, two of them for rl_kd; ddgsd sees two views; okdmde has four branches beside it; Assistants is amd's first stage with eight candidates, its teacher a ResNet-32.\n\n"
            (output / f"speed_{device}_taught.md").write_text(title + "\n".join(lines) + "\n")


def main() -> None:
    import coterie

    parser = script_parser(__doc__, "device", "output", "root", "repetitions", device="cuda")
    parser.add_argument("part", choices=["modes", "methods", "profile", "taught", "train", "accuracy"])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*MODES, *TAUGHT, *ONLINE], help="these modes or methods only")
    parser.add_argument("--mode", choices=MODES, default="compiled graph bf16, channels last")
    arguments = parser.parse_args()
    mode = MODES[arguments.mode] if arguments.device == "cuda" else MODES["eager float32, channels last"]
    if arguments.part == "modes":
        table("modes", {name: {"training": values} for name, values in MODES.items() if not arguments.only or name in arguments.only}, arguments.device, arguments.output, arguments.repetitions)  # fmt: skip
    elif arguments.part == "methods":
        cases: dict[str, dict[str, Any]] = {}
        for name in arguments.only or ONLINE:
            network = {"branches": 4} if name != "dml" else {"branches": 2, "at": "peers"}
            graph = {**mode, "compile": False}  # compiling fourteen methods takes longer than measuring them
            cases[name] = {"method": {"name": name}, "network": network, "training": graph}
        table("methods", cases, arguments.device, arguments.output, arguments.repetitions)
    elif arguments.part == "taught":
        taught({**mode, "compile": False}, arguments.device, arguments.output, arguments.repetitions, arguments.only)
    elif arguments.part == "profile":
        profile(mode, arguments.output)
    else:
        recipe = {
            **RECIPE,
            "data": {"name": "cifar100", "root": str(arguments.root)},
            "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
            "schedule": {"name": "multistep", "milestones": [0.5, 0.75]},
            "training": {
                **RECIPE["training"],
                **mode,
                "device": arguments.device,
                "epochs": arguments.epochs,
                "evaluate_every": 1,
            },
            "seed": arguments.seed,
        }
        if arguments.part == "accuracy":
            arms = {
                name: {**recipe, "training": {**recipe["training"], **MODES[name]}}
                for name in ("graph float32", "compiled graph bf16, channels last")
            }
            coterie.compare(
                {name: fixed(arm) for name, arm in arms.items()},
                seeds=[1, 2, 3, 4, 5],
                output=arguments.output / "precision",
                reference="graph float32",
            )
            return
        result = coterie.train(fixed(recipe), output=arguments.output / f"okdmde_{arguments.mode.replace(', ', '_').replace(' ', '_')}_{arguments.seed}", quiet=True)  # fmt: skip
        summary = result.summary
        print(json.dumps({key: summary[key] for key in ("deployed", "mean_student", "ensemble", "seconds", "images_per_second")}))  # fmt: skip


if __name__ == "__main__":
    main()
