"""The digits demo: one network alone, three that teach one another, and the better one loaded by plain timm.

Runs in about a minute on two CPU cores; needs no network. Results lie in runs/demo.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import coterie
from coterie.networks.papers.registration import register

OUTPUT = Path("runs/demo")
SETTINGS = {"data": "digits", "training": {"epochs": 30, "batch_size": 64}, "optimizer": {"learning_rate": 0.1}}


def main() -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    started = time.perf_counter()
    print("1. One network, labels only            (coterie train method=baseline)")
    alone = coterie.train(**SETTINGS, method="baseline", output=OUTPUT / "baseline", quiet=True)
    print("2. Three branches that teach one another (coterie train network.branches=3)")
    group = coterie.train(**SETTINGS, method="okdmde", network={"branches": 3}, output=OUTPUT / "okdmde", quiet=True)
    print(f"   trained in {time.perf_counter() - started:.0f} s\n")

    print(f"{'test split, one seed':<34}{'top-1':>8}{'NLL':>9}{'ECE':>8}")
    rows = {
        "baseline": alone.summary["deployed"],
        "OKDMDE, deployed student": group.summary["deployed"],
        "OKDMDE, mean of the students": group.summary["mean_student"],
        "OKDMDE, ensemble (not deployed)": group.summary["ensemble"]["method"],
    }
    for name, figures in rows.items():
        print(f"{name:<34}{figures['top1']:>8.2%}{figures['nll']:>9.4f}{figures['ece']:>8.4f}")
    print("One seed on an easy data set proves nothing; see benchmarks/results for what does.\n")

    print("3. The student as plain timm loads it   (coterie export runs/demo/okdmde --format timm)")
    folder = coterie.export_run(group.path, "timm")
    register()  # tiny_cifar is coterie's own; a timm network would not need this line
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = network.pretrained_cfg
    picture = sorted((group.path / "gallery").glob("*.png"))[0]
    pixels = torch.from_numpy(np.array(Image.open(picture))).float().div(255)[None, None]
    pixels = (pixels - config["mean"][0]) / config["std"][0]
    with torch.inference_mode():
        probabilities = network(pixels).softmax(-1)[0]
    print(f"   {picture} is a {config['label_names'][int(probabilities.argmax())]} ({probabilities.max():.1%})\n")
    print(f"report  {group.path / 'report.html'}\nexport  {folder}")


if __name__ == "__main__":
    main()
