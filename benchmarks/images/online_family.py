"""The online methods, and ablations of OKDMDE, on CIFAR-100 at a size for two CPU cores.

ResNet-8 on 16x16 images, with few images per class and many epochs, so that the baseline over-fits: if it under-fits, the
experiment says nothing about distillation. The comparison runs in rounds of one seed for every arm: a stop leaves a balanced table, and the
same command continues. All arms share data order, augmentation, steps, and the initial weights of student 0.

    python -m benchmarks.images.online_family family   --root FOLDER [--seeds 5] [--output DIR]
    python -m benchmarks.images.online_family ablation --root FOLDER --seeds 2 [--output DIR] [--only ARM ...]
    python -m benchmarks.images.online_family promising --root FOLDER [--seeds 5] [--output DIR]
    python -m benchmarks.images.online_family paper    --root FOLDER [--seeds 3] [--output DIR]     # ResNet-32, 300 epochs: a GPU

FOLDER holds CIFAR-100 in any form that `data.root` accepts. A round takes about 22 minutes (family) or 50 (ablation) on one core. Settings are
judged on the validation split; the table of the family is on test. The report and the tables are written to DIR, and the
committed tables to benchmarks/results/.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from benchmarks.fixed import fixed
from benchmarks.shared import RESULTS, script_parser

SETTINGS: dict[str, Any] = {
    "data": {"name": "cifar100", "image_size": 16, "train_limit": 2500, "views": "shared"},
    "network": {"name": "resnet8_cifar"},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
    "schedule": {"name": "cosine", "warmup_epochs": 2},
    "training": {"epochs": 60, "batch_size": 64, "device": "cpu", "evaluate_every": 20},
}
OWN_VIEWS = {"data": {"views": "auto"}}
PEERS = {"network": {"at": "peers"}}


def method(name: str, *more: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return the settings of an arm: a method with its options, and sections that differ."""
    merged: dict[str, Any] = {"method": {"name": name, **options}}
    for sections in more:
        merged |= sections
    return merged


def branches(count: int) -> dict[str, Any]:
    return {"network": {"branches": count}}


# Every method as published: its own number of students, trunk or peers. Then methods with one view per student use them,
# and methods with two peers use four branches on a trunk, like the others.
FAMILY: dict[str, dict[str, Any]] = {
    name: method(name)
    for name in (
        *("baseline", "independent", "okdmde", "dml", "cl_ilr", "one", "ffl"),
        *("okddip", "kdcl", "afd", "pcl", "ffsd", "mcl", "okdph"),
    )
} | {
    "okdmde-all": method("okdmde", ensemble_gradient="all"),
    "kdcl-own-views": method("kdcl", OWN_VIEWS),
    "pcl-own-views": method("pcl", OWN_VIEWS),
    "okdph-own-views": method("okdph", OWN_VIEWS),
    "dml-4-branches": method("dml", {"network": {"branches": 4, "at": "auto"}}),
}


def okdmde(*more: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return an OKDMDE arm in which, by default, the ensemble's cross-entropy trains everything, the family's practice."""
    return method("okdmde", *more, **{"ensemble_gradient": "all", **options})


def cd(form: str, weight: float) -> dict[str, Any]:
    return okdmde(diversity=form, diversity_weight=weight)


STRUCTURE: dict[str, dict[str, Any]] = {
    "base": okdmde(),
    "no-CD": okdmde(diversity_weight=0.0),
    "uniform": okdmde(attention="uniform"),
    "one-4": method("one", branches(4)),
    "gate": okdmde(ensemble_gradient="gate"),
    "class": okdmde(attention="class"),
    "pairwise": okdmde(attention="pairwise"),
    "fusion-depthwise": okdmde(fusion="depthwise"),
    "fusion-sum": okdmde(fusion="sum"),
    "no-ensemble-label": method("okdmde", ensemble_label=False, attention="uniform"),
    "target-not-detached": okdmde(detach_target=False),
    "leader": okdmde(leader=True),
    "distillation-2": okdmde(distillation_weight=2.0),
    "trunk-mean": okdmde({"network": {"trunk_gradient": "mean"}}),
    "2-branches": okdmde(branches(2)),
    "3-branches": okdmde(branches(3)),
    "6-branches": okdmde(branches(6)),
    "at-layer2": okdmde({"network": {"at": "layer2"}}),
    "peers": okdmde(PEERS),
    "no-label-not-detached": okdmde(ensemble_label=False, detach_target=False),
    "not-detached-no-CD": okdmde(detach_target=False, diversity_weight=0.0),
    "not-detached-trunk-mean": okdmde({"network": {"trunk_gradient": "mean"}}, detach_target=False),
    "not-detached-leader": okdmde(detach_target=False, leader=True),
    "gate-leader": okdmde(ensemble_gradient="gate", leader=True),
    "not-detached-uniform": okdmde(detach_target=False, attention="uniform"),
    "gate-trunk-mean": okdmde({"network": {"trunk_gradient": "mean"}}, ensemble_gradient="gate"),
}
DIVERSITY: dict[str, dict[str, Any]] = {
    **{f"frobenius-{w:g}": cd("frobenius", w) for w in (5e-8, 5e-6, 5e-4, 5e-2)},
    **{f"squared-{w:g}": cd("squared", w) for w in (5e-6, 5e-4, 5e-2)},
    **{f"frobenius_classes-{w:g}": cd("frobenius_classes", w) for w in (5e-4, 5e-2)},
    **{f"logits-{w:g}": cd("logits", w) for w in (5e-6, 5e-4, 5e-2)},
    **{f"cosine-{w:g}": cd("cosine", w) for w in (0.1, 1.0)},
    **{f"gram-{w:g}": cd("gram", w) for w in (0.1, 10.0)},  # weight 1 is the base
    **{f"coincident_error-{w:g}": cd("coincident_error", w) for w in (0.1, 1.0, 10.0)},
}
# The family's own setting, for a GPU: ResNet-32 on all of CIFAR-100, 300 epochs, four branches. Published figures are in
# recipes/cifar100_resnet32_*.yaml; CL-ILR is as in OKDDip's comparison.
PAPER_SETTINGS: dict[str, Any] = {
    "data": {"name": "cifar100", "validation": 0, "views": "shared"},
    "network": {"name": "resnet32_cifar"},
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4},
    "schedule": {"name": "multistep", "milestones": [0.5, 0.75]},
    "training": {"epochs": 300, "batch_size": 128, "evaluate_every": 300},
}
CL_ILR_OF_OKDDIP = {
    "temperature": 3.0,
    "label_weight": 1.0,
    "distillation_weight": 1.0,
    "ramp_up": 80 / 300,
    "detach_target": False,
}
PAPER: dict[str, dict[str, Any]] = {
    "baseline": method("baseline"),
    "independent": method("independent"),
    "dml": method("dml", {"network": {"branches": 4, "at": "peers"}}, temperature=3.0, target="mean_logit"),
    "cl_ilr": method("cl_ilr", branches(4), **CL_ILR_OF_OKDDIP),
    "one": method("one", branches(4)),
    "okddip": method("okddip", branches(4)),
    "okdmde": method("okdmde", branches(4)),
    "okdmde-published-CD": method("okdmde", branches(4), diversity="frobenius", diversity_weight=5e-8),
}
# After the coarse round: the arms that looked promising on validation, and those to compare them with.
PROMISING = {
    label: STRUCTURE[label]
    for label in (
        "base",
        "no-CD",
        "uniform",
        "one-4",
        "gate",
        "target-not-detached",
        "not-detached-no-CD",
        "not-detached-leader",
    )
}
PARTS = {"family": FAMILY, "ablation": {**STRUCTURE, **DIVERSITY}, "promising": PROMISING, "paper": PAPER}
REFERENCES = {"family": "baseline", "ablation": "base", "promising": "base", "paper": "baseline"}


def arms(part: str, root: Path) -> dict[str, dict[str, Any]]:
    """Return complete recipes by label."""
    found = {}
    for label, changes in PARTS[part].items():
        settings = PAPER_SETTINGS if part == "paper" else SETTINGS
        sections = {name: {**section, **changes.get(name, {})} for name, section in settings.items()}
        sections["data"]["root"] = str(root)
        found[label] = {**sections, "method": changes["method"]}
    return found


def main() -> None:
    import coterie

    parser = script_parser(__doc__, "root", "workers")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 1 to this one")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", nargs="+", help="these arms only")
    arguments = parser.parse_args()
    result = coterie.compare(
        {
            label: fixed(recipe)
            for label, recipe in arms(arguments.part, arguments.root).items()
            if not arguments.only or label in arguments.only
        },
        seeds=list(range(1, arguments.seeds + 1)),
        output=arguments.output or Path("comparisons") / arguments.part,
        reference=REFERENCES[arguments.part],
        workers=arguments.workers,
    )
    keep(result.path, RESULTS / f"online_{arguments.part}")


def keep(comparison: Path, results: Path) -> None:
    """Copy the files to commit: tables, charts and their data, not the runs."""
    results.mkdir(parents=True, exist_ok=True)
    for name in ("comparison.md", "comparison.csv", "comparison.json"):
        shutil.copy(comparison / name, results / name)
    shutil.copytree(comparison / "figures", results / "figures", dirs_exist_ok=True)


if __name__ == "__main__":
    main()
