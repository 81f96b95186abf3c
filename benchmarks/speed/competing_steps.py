"""Training steps of coterie, of plain PyTorch loops and of other libraries, from the same weights on the same tensors; see competitors.py."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.fixed import fixed
from coterie.benchmark.measure import Subject
from coterie.recipe import load_recipe

CLASSES, TEMPERATURE, LABEL_WEIGHT = 100, 4.0, 0.1
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
DML_BATCHES = 4  # batches per call of pytorch-dml's epoch, so that its overhead per epoch counts for little
PLAIN = "plain loop"
PLAIN_KD = "plain loop, teacher first"


class Setting(NamedTuple):
    """Networks and tensors to train with."""

    student: str
    teacher: str
    images: Tensor
    targets: Tensor
    memory_format: torch.memory_format = torch.channels_last

    @property
    def device(self) -> torch.device:
        return self.images.device


class Contestant(NamedTuple):
    """A training step, its students, and the number of batches per call."""

    step: Callable[[], object]
    students: list[nn.Module]
    batches: int = 1


def make_setting(student: str, teacher: str, batch: int, device: torch.device) -> Setting:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, 32, 32, generator=generator).to(device, memory_format=torch.channels_last)
    return Setting(student, teacher, images, (torch.arange(batch) % CLASSES).to(device))


def network(name: str, setting: Setting, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    built = timm.create_model(name, num_classes=CLASSES)
    return built.to(setting.device, memory_format=setting.memory_format)


def peers(setting: Setting, count: int) -> list[nn.Module]:
    return [network(setting.student, setting, seed).train() for seed in range(count)]


def teacher(setting: Setting) -> nn.Module:
    return network(setting.teacher, setting, 99).eval()


def kd_loss(student: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    soft = F.kl_div(
        F.log_softmax(student / TEMPERATURE, dim=1), F.softmax(teacher / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return LABEL_WEIGHT * F.cross_entropy(student, targets) + (1 - LABEL_WEIGHT) * TEMPERATURE**2 * soft


def plain_peers(setting: Setting, count: int) -> Contestant:
    """Plain loop for peers: forward passes of all, one backward pass, one optimizer."""
    networks = peers(setting, count)
    optimizer = torch.optim.SGD([p for each in networks for p in each.parameters()], **SGD)

    def step() -> None:
        logits = [each(setting.images) for each in networks]
        log_probabilities = [F.log_softmax(each, dim=1) for each in logits]
        loss = torch.zeros((), device=setting.device)
        for i, own in enumerate(log_probabilities):
            others = [each.detach() for j, each in enumerate(log_probabilities) if j != i]
            mutual = sum(F.kl_div(own, other, reduction="batchmean", log_target=True) for other in others)
            loss = loss + F.nll_loss(own, setting.targets) + mutual / len(others)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contestant(step, networks)


def plain_kd(setting: Setting, order: str) -> Contestant:
    """Plain loop for KD. ``order``: teacher (first), student (first), or gradient: the student first and no ``no_grad`` around the teacher."""
    (student,), guide = peers(setting, 1), teacher(setting)
    optimizer = torch.optim.SGD(student.parameters(), **SGD)
    images = setting.images

    def step() -> None:
        own = None if order == "teacher" else student(images)
        with contextlib.nullcontext() if order == "gradient" else torch.no_grad():
            target = guide(images)
        kd_loss(student(images) if own is None else own, target, setting.targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contestant(step, [student])


def coterie_step(setting: Setting, method: Mapping[str, Any], folder: Path, count: int, **training: Any) -> Contestant:
    """The training loop's own step, on the tensors and initial weights of the others."""
    folder.mkdir()
    pixels = np.zeros((2 * max(CLASSES, len(setting.targets)), 32, 32, 3), dtype=np.uint8)
    for split in ("train", "test"):
        np.savez(folder / f"{split}.npz", images=pixels, labels=np.arange(len(pixels)) % CLASSES)
    tree: dict[str, Any] = {
        "data": {"name": "cifar100", "root": str(folder)},
        "network": {"name": setting.student, "branches": count, "at": "peers" if count > 1 else None},
        "method": dict(method),
        "optimizer": {"learning_rate": SGD["lr"], "momentum": SGD["momentum"], "weight_decay": SGD["weight_decay"]},
        "schedule": {"name": "constant"},
        "training": {"batch_size": len(setting.targets), "device": setting.device.type, **training},
    }
    if method["name"] == "kd":
        torch.save(teacher(setting).state_dict(), folder / "teacher.pth")
        tree["teacher"] = {"network": setting.teacher, "weights": str(folder / "teacher.pth")}
    subject = Subject(load_recipe(fixed(tree)), folder / "run")
    group = subject.method.group
    start = [parameter for each in peers(setting, count) for parameter in each.parameters()]
    with torch.no_grad():
        for own, given in zip(group.parameters(), start, strict=True):
            own.copy_(given)
    subject.batch = subject.batch._replace(inputs=setting.images, targets=setting.targets)
    return Contestant(subject.step, [group])


def pytorch_dml(setting: Setting, count: int) -> Contestant:
    """An epoch of its trainer over a few prepared batches; it shows a progress bar and reads losses and accuracies at every batch."""
    from pydml import DMLConfig, DMLTrainer

    networks = peers(setting, count)
    optimizers = [torch.optim.SGD(each.parameters(), **SGD) for each in networks]
    trainer = DMLTrainer(networks, DMLConfig(temperature=1.0), device=setting.device.type, optimizers=optimizers)
    loader = [(setting.images, setting.targets)]

    def step() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            trainer.train_epoch(loader, 0)
        loader[:] = loader[:1] * DML_BATCHES  # the first call is one step, whose result is compared with the others

    return Contestant(step, networks, DML_BATCHES)


def timm_task(setting: Setting) -> Contestant:
    """timm's LogitDistillationTask (student first), without the rest of its training script."""
    from timm.task import LogitDistillationTask
    from timm.task.distillation import DistillationTeacher

    (student,) = peers(setting, 1)
    task = LogitDistillationTask(
        student,
        DistillationTeacher(teacher(setting), device=setting.device),  # it asks a bare module's student for in_chans
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=LABEL_WEIGHT,
        distill_loss_weight=1 - LABEL_WEIGHT,
        temperature=TEMPERATURE,
        device=setting.device,
        verbose=False,
    ).train()
    task.to(setting.device)
    optimizer = torch.optim.SGD(student.parameters(), **SGD)

    def step() -> None:
        optimizer.zero_grad()
        task(setting.images, setting.targets)["loss"].backward()
        optimizer.step()

    return Contestant(step, [student])


def torchdistill_box(setting: Setting) -> Contestant:
    """torchdistill's DistillationBox, called for a batch as in its example's loop."""
    import torchdistill.losses.high_level
    import torchdistill.losses.mid_level  # noqa: F401  (it registers KDLoss)
    from torchdistill.core.distillation import get_distillation_box

    (student,) = peers(setting, 1)
    loss = {"student_module_path": ".", "student_module_io": "output", "teacher_module_path": ".", "teacher_module_io": "output"}  # fmt: skip
    loss |= {"temperature": TEMPERATURE, "alpha": LABEL_WEIGHT, "reduction": "batchmean"}
    terms = {"kd": {"criterion": {"key": "KDLoss", "kwargs": loss}, "weight": 1.0}}
    settings = {
        "num_epochs": 1,
        "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only"},
        "student": {"forward_proc": "forward_batch_only"},
        "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
    box = get_distillation_box(teacher(setting), student, {}, settings, setting.device, None, False, 1.0)
    box.pre_epoch_process(epoch=0)

    def step() -> None:
        box.post_forward_process(loss=box.forward_process(setting.images, setting.targets, None))

    return Contestant(step, [student])


def modelopt_distill(setting: Setting) -> Contestant:
    """nvidia-modelopt's converted student (teacher first) with its loss and balancer."""
    import modelopt.torch.distill as mtd

    (student,) = peers(setting, 1)
    settings = {
        "teacher_model": teacher(setting),
        "criterion": mtd.LogitsDistillationLoss(TEMPERATURE, reduction="batchmean"),
        "loss_balancer": mtd.StaticLossBalancer(1 - LABEL_WEIGHT),
    }
    model = mtd.convert(student, mode=[("kd_loss", settings)])
    model.train()  # its train() returns None
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], **SGD)

    def step() -> None:
        optimizer.zero_grad()
        label = F.cross_entropy(model(setting.images), setting.targets)
        model.compute_kd_loss(student_loss=label).backward()
        optimizer.step()

    return Contestant(step, [model])


def contestants(setting: Setting, folder: Path) -> dict[str, dict[str, Callable[[], Contestant]]]:
    """Return the contestants by section and name; the first of each section is the reference."""

    def peers_section(count: int) -> dict[str, Callable[[], Contestant]]:
        return {
            PLAIN: lambda: plain_peers(setting, count),
            "plain loop, contiguous tensors": lambda: plain_peers(contiguous(setting), count),
            **ours(f"dml{count}", {"name": "dml"}, count),
            "pytorch-dml": lambda: pytorch_dml(setting, count),
        }

    def ours(name: str, method: dict[str, Any], count: int) -> dict[str, Callable[[], Contestant]]:
        found = {"coterie": lambda: coterie_step(setting, method, folder / name, count)}
        if setting.device.type == "cuda":
            found["coterie, without a CUDA graph"] = lambda: coterie_step(
                setting, method, folder / f"{name}-eager", count, cuda_graph=False
            )
        return found

    kd = {"name": "kd", "temperature": TEMPERATURE, "label_weight": LABEL_WEIGHT, "distillation_weight": 1 - LABEL_WEIGHT}  # fmt: skip
    return {
        "DML, two networks": peers_section(2),
        "DML, three networks": peers_section(3),
        "KD, one teacher and one student": {
            PLAIN_KD: lambda: plain_kd(setting, "teacher"),
            "plain loop, teacher first, contiguous tensors": lambda: plain_kd(contiguous(setting), "teacher"),
            "plain loop, student first": lambda: plain_kd(setting, "student"),
            "plain loop, student first, gradient of the teacher forgotten": lambda: plain_kd(setting, "gradient"),
            **ours("kd", kd, 1),
            "torchdistill": lambda: torchdistill_box(setting),
            "timm's LogitDistillationTask (student first)": lambda: timm_task(setting),
            "nvidia-modelopt": lambda: modelopt_distill(setting),
        },
    }


def contiguous(setting: Setting) -> Setting:
    """Return the same setting in PyTorch's default memory format."""
    return setting._replace(images=setting.images.contiguous(), memory_format=torch.contiguous_format)
