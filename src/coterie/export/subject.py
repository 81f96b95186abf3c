"""Loads the network to export: one student, the mean of all students, or the method's ensemble."""

from __future__ import annotations

from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses import mean_probability
from coterie.methods.group_method import GroupMethod
from coterie.networks.branching import NetworkSource
from coterie.networks.group import StudentGroup
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.running.reload import load_method
from coterie.student import load_student
from coterie.tasks import find_part
from coterie.tasks.exporting import Subject


class MeanProbability(nn.Module):
    """The students' mean probability as one network: images [B, C, H, W] to log-probabilities [B, K]."""

    def __init__(self, group: StudentGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, images: Tensor) -> Tensor:
        return mean_probability(self.group(images).logits)


class MethodEnsemble(nn.Module):
    """The method's own ensemble as one network: images [B, C, H, W] to logits [B, K]."""

    def __init__(self, method: GroupMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        return self.method.predict(images).ensemble


def load_subject(
    folder: RunFolder, recipe: Recipe, which: str, network: NetworkSource | None, *, trust_code: bool = False
) -> Subject:
    """Load the network to export from a finished run.

    Raises:
        CoterieError: the run is not finished, the student does not exist, or ``network`` is missing.
    """
    if which == "student":
        module = network if network is None or isinstance(network, nn.Module) else network()
        student = load_student(folder.path, module)
        return Subject(student, student.state_dict(), folder.read_description(), which, folder.tokenizer)
    kind = find_part(recipe.task, "deployed")
    method = load_method(folder.path, network, trust_code=trust_code)
    if not isinstance(method, GroupMethod):
        raise CoterieError(
            f"which={which}: a run of task={recipe.task} has one student, which is exported; leave it out"
        )
    description = folder.read_description()
    summary = folder.read_summary()
    students = method.num_students
    if which.isdecimal():
        number = int(which)
        if number >= students:
            raise CoterieError(f"which={which}: the run has {students} student(s), numbered from 0 to {students - 1}")
        student = method.students.student(number).eval()
        figures = dict(enumerate(summary.get("students", []))).get(number, {})
        described = {
            **description,
            **kind.describe_network(recipe, description, number),
            "student": number,
            "figures": figures,
        }
        return Subject(student, student.state_dict(), described, which, folder.tokenizer)
    rule = "mean_probability" if which == "ensemble" else "method"
    described = {key: value for key, value in description.items() if key not in {"network", "options", "student"}}
    described["networks"] = [kind.describe_network(recipe, description, number) for number in range(students)]
    described["figures"] = summary.get("ensemble", {}).get(rule, {})
    if which == "ensemble":
        plain = nn.ModuleList(method.students.student(number) for number in range(students))
        return Subject(MeanProbability(method.students).eval(), plain.state_dict(), described, which)
    method.label_loss = nn.Identity()  # serves training only
    return Subject(MethodEnsemble(method).eval(), method.state_dict(), described, which)
