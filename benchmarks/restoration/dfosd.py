"""Ablation of DFOSD at a small size: does an adversary with pretrained weights restore fine detail, and at what cost in PSNR?

    python -m benchmarks.restoration.dfosd run --runs DIR [--seeds 1 2 3] [--arms ARM ...] [--epochs N] [--pretraining N]
    python -m benchmarks.restoration.dfosd table --runs DIR      # writes benchmarks/results/restoration/dfosd.md and dfosd.json

Data: photographs of scikit-learn and scikit-image in squares of 32 pixels, x4, blur, noise and JPEG; the test photographs are not in the training set.
The "autoencoder" rearranges pixels without loss. The diffusion model is a UNet of 5.7 million parameters, trained here to predict noise. Every
arm of every seed starts from it, with LoRA of rank 8, the same squares and the same number of generator steps.

"DISTS" here is the DISTS formula on a random network and is named so; it is not DISTS. The table also has the AUC of a critic: a small convolutional
network, trained afterwards on training photographs to separate true from restored squares, and evaluated on the test photographs (0.5: chance level).

Every finished arm of a seed is a run folder below DIR with a JSON file in it. Finished arms are skipped, so the same command continues after a stop.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import coterie
from benchmarks import shared
from benchmarks.shared import script_parser
from coterie.export import export_run
from coterie.files import write_atomically, write_json, write_text
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.running.accelerator import build_accelerator
from coterie.running.reload import load_method
from coterie.tasks.restoration.task import Restoration

RESULTS = shared.RESULTS / "restoration"
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "dfosd.png"
PERCEPTUAL = {"perceptual": "ea_dists", "dists_backbone": "random", "perceptual_weight": 0.2}
ADVERSARY = {**PERCEPTUAL, "adversarial_weight": 0.05, "discriminator_learning_rate": 1e-3}
PRETRAINED = {"adversary": "pretrained", "discriminator_rank": 8, **ADVERSARY}
ARMS: dict[str, dict[str, Any]] = {
    "mse": {"name": "regression"},
    "dists": {"name": "dfosd", "adversary": "none", **PERCEPTUAL, "perceptual": "dists"},
    "ea_dists": {"name": "dfosd", "adversary": "none", **PERCEPTUAL},
    "pretrained": {"name": "dfosd", **PRETRAINED},
    "random": {"name": "dfosd", "adversary": "random", **ADVERSARY},
    "no_noise": {"name": "dfosd", "noise": False, **PRETRAINED},
    "vsd": {"name": "vsd", **PERCEPTUAL, "rank": 8, "own_learning_rate": 1e-3},
}
LABELS = {
    "mse": "squared error",
    "dists": "+ DISTS†",
    "ea_dists": "+ EA-DISTS†",
    "pretrained": "+ EA-DISTS† + discriminator, pretrained",
    "random": "+ EA-DISTS† + discriminator, random",
    "no_noise": "+ EA-DISTS† + discriminator, pretrained, without noise",
    "vsd": "+ EA-DISTS† + distillation (vsd)",
}
SHOWN = ("psnr", "ssim", "high_frequency", "grid", "edges", "dists_random", "critic")
BATCH, PRETRAINING_BATCH = 8, 16
NETWORK = {
    "name": "tiny_unet",
    "options": {"block_out_channels": [128, 128]},
}  # wider than the 48 channels of its latents: a narrower one cannot tell their noise
CRITIC_STEPS, CRITIC_BATCH = 200, 32


def recipe_of(
    seed: int, method: dict[str, Any], epochs: int, data: dict[str, Any], batch: int, **network: Any
) -> dict[str, Any]:
    return {
        "task": "restoration",
        "data": data,
        "network": network,
        "method": method,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01},
        "training": {"epochs": epochs, "batch_size": batch, "device": "cpu", "evaluate_every": max(1, epochs // 3)},
        "seed": seed,
    }


def start_of(runs: Path, epochs: int, data: dict[str, Any]) -> Path:
    """The folder of the diffusion model from which every arm of every seed starts; trains it if it is missing."""
    folder = runs / "diffusion"
    if not folder.is_dir():
        run = runs / "denoising"
        resume = (run / "checkpoint").is_dir()
        recipe = recipe_of(1, {"name": "denoising"}, epochs, data, PRETRAINING_BATCH, **NETWORK)
        coterie.train(recipe, output=run, resume=resume)
        export_run(run, output=folder)
    return folder


def squares(run: Path, split: Literal["train_evaluation", "test"]) -> tuple[Tensor, Tensor]:
    """Return restored and true squares of a split, [N, 3, s, s]."""
    method: Any = load_method(run)
    recipe = load_recipe(run / "recipe.yaml")
    task = Restoration.for_evaluation(recipe, build_accelerator(recipe), RunFolder(run))
    with torch.no_grad():
        pairs = [(method.predict(batch.inputs), batch.targets) for batch in getattr(task.data, split)]
    return torch.cat([made for made, _ in pairs]), torch.cat([true for _, true in pairs])


def grid_share(images: Tensor) -> float:
    """Return the share of the fine detail's power that repeats every four pixels, of squares [N, 3, s, s].

    Such a grid comes from positions of four by four pixels. Fine detail are the frequencies that images a quarter of the size cannot have.
    """
    side = images.shape[-1]
    power = torch.fft.fft2(images.mean(1)).abs().square().mean(0)
    frequency = torch.fft.fftfreq(side, 1 / side).abs()
    fine = (frequency[:, None] > side / 8) | (frequency > side / 8)
    periodic = (frequency[:, None] % (side / 4) == 0) & (frequency % (side / 4) == 0)
    return (power[fine & periodic].sum() / power[fine].sum()).item()


def critic_auc(run: Path, seed: int) -> float:
    """Return how well a critic separates restored from true test squares, as the area under the ROC curve."""
    torch.manual_seed(seed)
    critic = nn.Sequential()
    for before, after in ((3, 16), (16, 32), (32, 32)):
        critic.extend([nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(4, after), nn.SiLU()])
    critic.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1)])
    made, true = squares(run, "train_evaluation")
    optimizer = torch.optim.AdamW(critic.parameters(), 2e-3)
    for _ in range(CRITIC_STEPS):
        chosen = torch.randint(len(made), (CRITIC_BATCH,))
        scores = critic(torch.cat([true[chosen], made[chosen]])).squeeze(1)
        labels = torch.cat([torch.ones(CRITIC_BATCH), torch.zeros(CRITIC_BATCH)])
        F.binary_cross_entropy_with_logits(scores, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    made, true = squares(run, "test")
    with torch.no_grad():
        of_made, of_true = critic.eval()(made).squeeze(1), critic(true).squeeze(1)
    above = (of_true[:, None] > of_made).double() + 0.5 * (of_true[:, None] == of_made).double()
    return above.mean().item()


def grids(run: Path) -> dict[str, float]:
    """Return the :func:`grid_share` of restored and of true test squares."""
    made, true = squares(run, "test")
    return {"grid": grid_share(made), "true_grid": grid_share(true)}


def run_arm(runs: Path, seed: int, arm: str, epochs: int, pretraining: int, data: dict[str, Any]) -> None:
    """Train an arm and write its figures, unless they exist."""
    folder = runs / f"seed{seed}" / arm
    if (folder / "figures.json").is_file():
        known = json.loads((folder / "figures.json").read_text())
        if "grid" not in known:  # of runs before this was measured
            write_json(folder / "figures.json", {**known, **grids(folder)})
        return
    start = start_of(runs, pretraining, data)
    recipe = recipe_of(seed, ARMS[arm], epochs, data, BATCH, name=str(start), lora={"rank": 8, "alpha": 8})
    found = coterie.train(recipe, output=folder, resume=(folder / "checkpoint").is_dir())
    figures = {key: value for key, value in found.summary["deployed"].items() if key != "student"}
    steps = found.summary["epochs"] * max(1, found.summary["num_train"] // BATCH)
    write_json(
        folder / "figures.json",
        {
            **figures,
            "steps": steps,
            "critic": critic_auc(folder, seed),
            **grids(folder),
            "bicubic": found.summary["bicubic"],
            "pretraining": pretraining,
        },
    )
    print(seed, arm, figures, flush=True)


def write_table(runs: Path) -> None:
    """Write means over seeds and standard errors; differences are paired by seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(runs.glob("seed*/*/figures.json")):
        seed = int(path.parts[-3].removeprefix("seed"))
        found.setdefault(path.parts[-2], {})[seed] = json.loads(path.read_text())
    if "mse" not in found:
        raise SystemExit(f"no finished arm mse below {runs}")
    seeds = sorted(found["mse"])
    first = found["mse"][seeds[0]]
    head = ["", "PSNR", "SSIM", "fine detail", "of it on a grid", "edge distance", "DISTS†", "critic's AUC"]
    plain = [f"{first['bicubic'][key]:.4g}" if key in first["bicubic"] else "" for key in SHOWN]
    rows = [["interpolation", *plain], ["true squares", "", "", "1", f"{first['true_grid']:.4g}", "0", "0", ""]]
    for arm in (each for each in ARMS if each in found):
        cells = [_cell([found[arm][seed][key] for seed in sorted(found[arm])]) for key in SHOWN]
        rows.append([f"{LABELS[arm]} ({len(found[arm])} seeds)", *cells])
    lines = [
        "# DFOSD's parts at a small size",
        "",
        f"`benchmarks/restoration/dfosd.py`: {first['steps']} generator steps after {first['pretraining']} epochs of the diffusion model; mean ± standard error over seeds. † a random network: no DISTS. Fine detail: power over that of the true squares; of it on a grid: the share of the power that repeats every four pixels, the side of a latent position.",
        "",
        "| " + " | ".join(head) + " |",
        "|---|" + "---:|" * (len(head) - 1),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    for arm in ("pretrained", "random", "no_noise", "vsd"):
        if arm not in found or "ea_dists" not in found:
            continue
        shared = sorted(set(found[arm]) & set(found["ea_dists"]))
        words = []
        for key in ("psnr", "high_frequency", "critic"):
            each = [found[arm][seed][key] - found["ea_dists"][seed][key] for seed in shared]
            words.append(f"{key} {_cell(each, signed=True)} ({sum(value > 0 for value in each)} of {len(each)} up)")
        lines += ["", f"{LABELS[arm]} less the same without an adversary, of each seed: {', '.join(words)}."]
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_text(RESULTS / "dfosd.md", "\n".join(lines) + "\n")
    write_json(RESULTS / "dfosd.json", found)


def write_picture(runs: Path) -> None:
    """Draw the first test squares of the first seed: what is given, what every arm makes of it, and the truth."""
    first = runs / "seed1"
    columns = {"small": "small", "bicubic": "interpolated"} | {arm: arm for arm in ARMS} | {"true": "true"}
    figure, axes = plt.subplots(4, len(columns), figsize=(len(columns), 4.3), layout="compressed")
    for column, (name, title) in enumerate(columns.items()):
        for row in range(len(axes)):
            file = f"pretrained/gallery/{name}-{row}.png" if name not in ARMS else f"{name}/gallery/restored-{row}.png"
            axes[row, column].imshow(plt.imread(first / file), interpolation="nearest")
            axes[row, column].set_axis_off()
        axes[0, column].set_title(title, fontsize=8)
    write_atomically(PICTURE, lambda path: figure.savefig(path, dpi=110, format="png"))
    plt.close(figure)


def _cell(values: list[float], signed: bool = False) -> str:
    mean = statistics.mean(values)
    shown = f"{mean:+.4g}" if signed else f"{mean:.4g}"
    return f"{shown} ± {statistics.stdev(values) / len(values) ** 0.5:.2g}" if len(values) > 1 else shown


def main() -> None:
    parser = script_parser(__doc__, "seeds", "runs")
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--epochs", type=int, default=6, help="of each arm")
    parser.add_argument("--pretraining", type=int, default=20, help="epochs of the diffusion model")
    parser.add_argument("--data", default="more_photos", help="or a folder of images")
    parser.add_argument("--crop", type=int, default=32)
    arguments = parser.parse_args()
    data = {"name": arguments.data, "crop": arguments.crop}
    if arguments.command == "table":
        write_table(arguments.runs)
        write_picture(arguments.runs)
        return
    for seed in arguments.seeds:
        for arm in arguments.arms:
            run_arm(arguments.runs, seed, arm, arguments.epochs, arguments.pretraining, data)


if __name__ == "__main__":
    main()
