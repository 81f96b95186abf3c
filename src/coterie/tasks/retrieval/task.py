"""The task of retrieval: data, encoders, figures, saved students and examples."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from coterie.data.batch import EvaluationLoader, Loaders
from coterie.errors import CoterieError
from coterie.methods import find_method
from coterie.methods.method import Method
from coterie.networks.branching import NetworkSource
from coterie.recipe import Recipe
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.defaults import TaskDefaults
from coterie.tasks.evaluation import Deployment, Evaluation
from coterie.tasks.retrieval import panels
from coterie.tasks.retrieval.bm25 import bm25_ranking, require_bm25s
from coterie.tasks.retrieval.bundle import Bundle, make_bundle
from coterie.tasks.retrieval.data.loaders import QueryLoader
from coterie.tasks.retrieval.data.sets import load_sets
from coterie.tasks.retrieval.encoders import describe_encoder, rebuild_encoder
from coterie.tasks.retrieval.evaluation import RetrievalEvaluation, cosines, mean_figures, rank
from coterie.tasks.retrieval.fitting import fit_retrieval
from coterie.tasks.retrieval.latency import query_milliseconds
from coterie.tasks.retrieval.ranking import Numbers, first_ranks
from coterie.tasks.retrieval.settings import data_of, network_of
from coterie.tasks.retrieval.sources import AnyTeacher, TeacherFound, build_student, display_name, read_teacher
from coterie.tasks.retrieval.students import make_method, require_pairwise, require_teacher
from coterie.tasks.retrieval.tokenizers import load_tokenizer, save_tokenizer

EXAMPLES = 12  # queries to show in the report
CHANCE = 2.9  # sum of 1 / rank over the first 10: MRR@10 of a random order, times the number of documents


class Retrieval(TaskDefaults):
    """Builds data and method of a recipe, and evaluates.

    Args:
        recipe: the run's settings.
        accelerator: provides the device and the rank of this process.
        network, datasets, teachers: refused: texts come from files or the Hub, encoders from folders or the Hub.
        folder: the folder of a finished run that is evaluated again; its recipe is not fitted again.
        whole: evaluate data without splits as a whole.

    Attributes:
        sample: what one sample is called.
        recipe, data, chosen: see :class:`coterie.tasks.task.Task`.
    """

    sample: ClassVar[str] = "query text"

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        network: NetworkSource | None = None,
        datasets: Any = None,
        *,
        teachers: list[nn.Module] | None = None,
        folder: RunFolder | None = None,
        whole: bool = False,
    ) -> None:
        if network is not None or datasets is not None or teachers:
            raise CoterieError(
                f"task={recipe.task} takes names of files and folders: save your encoder by save_pretrained, and your texts as files"
            )
        self.accelerator = accelerator
        self.network_names = [display_name(recipe)]
        self.chosen: Mapping[str, str] = MappingProxyType({})
        self.teacher: AnyTeacher | None = read_teacher(recipe)
        require_pairwise(recipe, self.teacher)
        self.sets = load_sets(data_of(recipe), recipe.seed, whole)
        notes: tuple[str, ...] = ()
        if folder is not None:
            self.encoder = rebuild_encoder(folder.read_description()["encoder"], load_tokenizer(folder.tokenizer))
        else:
            recipe, self.chosen = fit_retrieval(recipe, len(self.sets.queries["train"].pairs), self.teacher)
            texts = [*self.sets.documents.texts, *self.sets.queries["train"].texts]
            self.encoder, note = build_student(recipe, self.teacher, texts)
            notes = (note,) if note else ()
        self.recipe = recipe
        self.bundle: Bundle = make_bundle(recipe, self.sets, self.encoder, self.teacher, accelerator, notes)
        self.data: Loaders = self.bundle.loaders
        self._evaluations: dict[int, RetrievalEvaluation] = {}  # the last one of each loader
        self._teacher_ranked: dict[int, Numbers] = {}
        self._evaluated: Method | None = None

    @classmethod
    def require(cls, recipe: Recipe, own_teachers: int = 0) -> None:
        """See :class:`coterie.tasks.task.TaskKind`."""
        _require_plain_settings(recipe)
        require_bm25s()  # which the final figures need: not after a long training
        require_teacher(recipe)
        super().require(recipe, own_teachers)

    @classmethod
    def for_evaluation(
        cls, recipe: Recipe, accelerator: Accelerator, folder: RunFolder, datasets: Any = None, whole: bool = False
    ) -> Retrieval:
        """See :class:`coterie.tasks.task.TaskKind`. The teacher is loaded if it encodes the documents."""
        documents = folder.read_description()["documents"]
        network = network_of(recipe).model_copy(update={"documents": documents})
        changes: dict[str, Any] = {"network": network}
        if documents == "student":
            changes |= {"teacher": None, "teachers": []}
        task = cls(recipe.model_copy(update=changes), accelerator, None, datasets, folder=folder, whole=whole)
        noted = folder.read_description()["teachers"]
        if task.teacher is not None and noted[0]["digest"] != task.teacher.digest:
            raise CoterieError(f"the teacher {noted[0]['network']!r} is not what it was when the run was trained")
        return task

    @staticmethod
    def rebuild_method(recipe: Recipe, description: dict[str, Any], network: NetworkSource | None) -> Method:
        """See :class:`coterie.tasks.task.TaskKind`."""
        return make_method(recipe, rebuild_encoder(description["encoder"]))

    @property
    def sample_size(self) -> str:
        """See :class:`coterie.tasks.task.Task`."""
        who = "the teacher's frozen vectors" if self.bundle.documents.tokens is None else "encoded by the student"
        return f"up to {self.encoder.max_seq_length:,} tokens; {len(self.sets.documents):,} documents, {who}"

    def build_method(self) -> Method:
        """Build the recipe's method around the student."""
        method = make_method(self.recipe, copy.deepcopy(self.encoder), self.teacher)
        training = self.recipe.training
        wanting = {
            "training.patience": training.patience is not None,
            "training.select=best": training.select == "best",
        }
        for what, needed in wanting.items():
            if needed and self.data.validation is None:
                raise CoterieError(f"{what} needs a validation split, and there is none; set data.validation")
        return method

    def evaluate(self, method: Method, loader: EvaluationLoader) -> RetrievalEvaluation:
        """Evaluate the queries of a split by search among all documents."""
        assert isinstance(loader, QueryLoader)
        method.eval()
        ranked, vectors = rank(method.networks, loader, self.bundle.documents, self.accelerator)
        found = mean_figures(ranked, loader)
        alike = np.empty(0)
        if self.teacher is not None and (self.bundle.cross is None or loader is not self.data.train_evaluation):
            taught = mean_figures(self._ranked_by_teacher(loader), loader)
            if taught["mrr_10"] > 0:
                found["kept"] = found["mrr_10"] / taught["mrr_10"]
        if isinstance(self.teacher, TeacherFound):
            alike = cosines(vectors, self.bundle.teacher_queries(loader))
        figures: dict[str, Any] = {
            "deployed": {"student": 0, **found},
            "students": [found],
            "mean_student": found,
            "statistics": {"query_cosine": float(alike.mean())} if len(alike) else {},
        }
        evaluation = RetrievalEvaluation(figures, ranked=ranked, cosines=alike)
        self._evaluations[id(loader)], self._evaluated = evaluation, method
        return evaluation

    def _ranked_by_teacher(self, loader: QueryLoader) -> Numbers:
        if id(loader) not in self._teacher_ranked:
            self._teacher_ranked[id(loader)] = self.bundle.rank_by_teacher(loader, self.accelerator.device)
        return self._teacher_ranked[id(loader)]

    def evaluate_teachers(self, method: Method, loader: EvaluationLoader) -> list[dict[str, Any]]:
        """Return what the run records about its teacher, with its figures on a whole split; empty without a teacher."""
        if self.teacher is None:
            return []
        assert isinstance(loader, QueryLoader)
        return [{**self.teacher.note, **mean_figures(self._ranked_by_teacher(loader), loader)}]

    def untrained_warning(self, on_train: Evaluation) -> str | None:
        """Return a warning if the deployed student ranks the documents of its training queries no better than a random order."""
        found, count = on_train.figures["deployed"]["mrr_10"], len(self.sets.documents)
        chance = CHANCE / count
        if found > 3 * chance or chance > 0.1:
            return None
        return (
            f"the deployed student has learnt nothing yet: MRR@10 on its own training queries is {found:.4f}, a random order has {chance:.4f}. "
            "Train for longer, or try another optimizer.learning_rate"
        )

    def choose_deployed(self, method: Method, validation: Evaluation | None) -> Deployment:
        """There is one student."""
        return Deployment(0, "")

    def final_figures(self, evaluation: Evaluation) -> dict[str, Any]:
        """Return the figures of the evaluation, BM25's figures, and the latency of a query."""
        assert isinstance(evaluation, RetrievalEvaluation)
        assert self._evaluated is not None
        loader = self._loader_of(evaluation)
        figures = copy.deepcopy(evaluation.figures)
        texts = loader.queries.texts
        plain: Any = self._evaluated.student()
        plain[0].processor = self.encoder[0].processor  # a rebuilt method has a placeholder tokenizer
        timed = [plain] + ([self.teacher.encoder] if isinstance(self.teacher, TeacherFound) else [])
        took, *others = query_milliseconds(timed, texts)
        for each in (figures["deployed"], figures["students"][0], figures["mean_student"]):
            each["query_ms"] = took
        if others:
            figures["teacher_query_ms"] = others[0]
        figures["bm25"] = mean_figures(bm25_ranking(texts, self.sets.documents.texts), loader)
        self._final, self._final_figures = evaluation, figures
        return figures

    def describe_student(self, method: Method, figures: dict[str, Any]) -> dict[str, Any]:
        """Return the contents of ``student.json``."""
        shown = {key: value for key, value in figures["deployed"].items() if key != "student"}
        return {
            "task": self.recipe.task,
            "network": self.network_names[0],
            "encoder": describe_encoder(self.encoder),
            "documents": "teacher" if self.bundle.documents.tokens is None else "student",
            "class_names": [],
            "method": self.recipe.method.name,
            "data": self.data.info.name,
            "student": 0,
            "teachers": [self.teacher.note] if self.teacher is not None else [],
            "figures": shown,
        }

    def save_student(self, folder: RunFolder, network: nn.Module, method: Method, figures: dict[str, Any]) -> None:
        """Save weights and description of the deployed student, and its tokenizer."""
        save_tokenizer(self.encoder.tokenizer, folder.tokenizer)
        save_student(folder, network, self.describe_student(method, figures))

    def _loader_of(self, evaluation: Evaluation) -> QueryLoader:
        loaders = (self.data.test, self.data.validation, self.data.train_evaluation)
        found = next(each for each in loaders if each is not None and self._evaluations.get(id(each)) is evaluation)
        assert isinstance(found, QueryLoader)
        return found

    def examples(self, evaluation: Evaluation) -> Tensor:
        """Choose queries on which student and teacher (without one: the best possible ranking) differ most."""
        assert isinstance(evaluation, RetrievalEvaluation)
        loader = self._loader_of(evaluation)
        own = 1 / first_ranks(evaluation.ranked, loader.queries.items)
        other = np.ones(len(own))
        if self.teacher is not None:
            other = 1 / first_ranks(self._ranked_by_teacher(loader), loader.queries.items)
        order = np.argsort(-np.abs(own - other), kind="stable")[:EXAMPLES]
        return torch.from_numpy(np.ascontiguousarray(order))

    def save_examples(self, folder: RunFolder, split: str, indices: Tensor) -> None:
        """Save ranks of student and teacher, and queries on which they differ, see :mod:`coterie.tasks.retrieval.panels`."""
        loader = self._loader_of(self._final)
        taught = self._ranked_by_teacher(loader) if self.teacher is not None else None
        panels.save(
            folder,
            split,
            queries=loader.queries.items,
            documents=self.sets.documents.texts,
            evaluation=self._final,
            taught=taught,
            figures=self._final_figures,
            teacher=None if taught is None else self.evaluate_teachers(self._method(), loader)[0],
            shown=indices.tolist(),
        )

    def _method(self) -> Method:
        assert self._evaluated is not None
        return self._evaluated


def _require_plain_settings(recipe: Recipe) -> None:
    """Refuse settings that have no meaning for dual encoders.

    Raises:
        CoterieError: one of them is set.
    """
    training, name = recipe.training, recipe.task
    find_method(recipe.method.name)  # a misspelt name should not wait for the data
    if recipe.network.branches not in {None, 1}:
        raise CoterieError(f"network.branches={recipe.network.branches}: task={name} trains one student")
    if recipe.data.views == "per_student":
        raise CoterieError(
            f"data.views=per_student: texts of task={name} are not augmented, all views of one are the same"
        )
    if training.class_weights != "none" or training.label_loss != "cross_entropy" or training.label_smoothing:
        raise CoterieError(
            f"training.class_weights, label_loss and label_smoothing are for classes, and task={name} ranks documents"
        )
