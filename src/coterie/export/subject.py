"""What is exported of a run: one student, the mean of all students, or the method's ensemble, as one network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses import mean_probability
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.networks.group import StudentGroup
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import load_method
from coterie.student import load_student
from coterie.tasks.images.networks import network_names, network_options


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        network: images to logits, in eval mode, on the CPU; of a run of texts, a network of transformers.
        tensors: the weights as ``model.safetensors`` holds them.
        description: as in ``student.json``; for several students ``networks`` in place of ``network`` and ``options``.
        which: student, a student's number, ensemble or method.
        tokenizer: folder of a text network's tokenizer.
    """

    network: nn.Module
    tensors: dict[str, Tensor]
    description: dict[str, Any]
    which: str
    tokenizer: Path | None = None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())


class MeanProbability(nn.Module):
    """The students' mean probability as one network: images [B, C, H, W] to log-probabilities [B, K]."""

    def __init__(self, group: StudentGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, images: Tensor) -> Tensor:
        return mean_probability(self.group(images).logits)


class MethodEnsemble(nn.Module):
    """The method's own ensemble as one network: images [B, C, H, W] to logits [B, K]."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        return self.method.predict(images).ensemble


def load_subject(
    folder: RunFolder, recipe: Recipe, which: str, network: NetworkSource | None, *, trust_code: bool = False
) -> Subject:
    """Load what is exported from a finished run.

    Raises:
        CoterieError: an unfinished run, a student that is not there, or a missing ``network``.
    """
    if which == "student":
        module = network if network is None or isinstance(network, nn.Module) else network()
        student = load_student(folder.path, module)
        return Subject(student, student.state_dict(), folder.read_description(), which, folder.tokenizer)
    method = load_method(folder.path, network, trust_code=trust_code)
    description = folder.read_description()
    summary = folder.read_summary()
    students = method.group.num_students
    if which.isdecimal():
        number = int(which)
        if number >= students:
            raise CoterieError(f"which={which}: the run has {students} student(s), numbered from 0 to {students - 1}")
        student = method.students.student(number).eval()
        figures = dict(enumerate(summary.get("students", []))).get(number, {})
        described = {**description, **_built_by(recipe, description, number), "student": number, "figures": figures}
        return Subject(student, student.state_dict(), described, which, folder.tokenizer)
    rule = "mean_probability" if which == "ensemble" else "method"
    described = {key: value for key, value in description.items() if key not in {"network", "options", "student"}}
    described["networks"] = [_built_by(recipe, description, number) for number in range(students)]
    described["figures"] = summary.get("ensemble", {}).get(rule, {})
    if which == "ensemble":
        plain = nn.ModuleList(method.students.student(number) for number in range(students))
        return Subject(MeanProbability(method.students).eval(), plain.state_dict(), described, which)
    method.label_loss = nn.Identity()  # serves training only
    return Subject(MethodEnsemble(method).eval(), method.state_dict(), described, which)


def _built_by(recipe: Recipe, description: dict[str, Any], number: int) -> dict[str, Any]:
    """How one of the students is built."""
    if description["network"] is None:
        return {"network": None, "options": {}}
    if recipe.task == "text_classification":
        from coterie.tasks.texts.networks import shown, student_names

        known = student_names(recipe)
        return {"network": shown(known[number if len(known) > 1 else 0]), "config": description["configs"][number]}
    names = network_names(recipe)
    name = names[number if len(names) > 1 else 0]
    return {"network": name, "options": network_options(recipe, name, tuple(description["input_size"]))}
