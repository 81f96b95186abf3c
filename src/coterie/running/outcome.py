"""The end of a run: selects the deployed student, evaluates it once on the test split, and writes the final files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from accelerate.utils import broadcast_object_list
from safetensors.torch import save_file
from torch import nn

from coterie.errors import RunError
from coterie.files import reason_of, write_atomically, write_json
from coterie.methods.method import Method
from coterie.report import write_report
from coterie.run_folder import RunFolder
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.task import Task
from coterie.training.divergence import require_usable
from coterie.training.loop import Trainer
from coterie.training.state import load_best


def conclude(trainer: Trainer, header: dict[str, Any], total_seconds: float) -> dict[str, Any]:
    """Select the deployed student, evaluate it once on the test split, write the final files, and return the summary."""
    recipe, task, folder, accelerator = trainer.recipe, trainer.task, trainer.folder, trainer.accelerator
    test = task.data.test if recipe.training.evaluate_test else None
    selected = trainer.epoch - 1
    validation = trainer.validated  # the last epoch may be evaluated already
    if recipe.training.select == "best" and trainer.best.epoch >= 0:
        load_best(trainer)
        if trainer.best.epoch != selected:
            validation = None
        selected = trainer.best.epoch
    method: Method = trainer.evaluated
    if validation is None and task.data.validation is not None:
        validation = task.evaluate(method, task.data.validation)
    method.deployed_student, deployed_reason = task.choose_deployed(method, validation)
    if validation is not None:
        validation.figures["deployed"] = {
            "student": method.deployed_student,
            **validation.figures["students"][method.deployed_student],
        }
    tested = task.evaluate(method, test) if test is not None else validation
    on_train = task.evaluate(method, task.data.train_evaluation)
    require_usable(
        task.chance_level(on_train), trainer.divergence.latest, method, trainer.step, averaged=trainer.ema is not None
    )
    if warning := task.untrained_warning(on_train):
        trainer.display.note(warning)
    loader = test or task.data.validation or task.data.train_evaluation
    teachers = task.evaluate_teachers(trainer.method, loader)
    student = _whole_student(trainer)
    samples = header["num_train"] * trainer.epoch
    final = tested if tested is not None else on_train
    split = "test" if test is not None else "validation" if validation is not None else "train"
    primary = trainer.figures[0].key
    summary = {
        "status": "finished",
        **header,
        "split": split,
        **task.final_figures(final),
        "deployed_reason": deployed_reason,
        f"train_{primary}": on_train.figures["deployed"][primary],
        "validation": validation.figures if validation is not None else None,
        "teachers": teachers,
        "epochs_trained": trainer.epoch,
        "selected_epoch": selected,
        "best_validation": {"epoch": trainer.best.epoch, primary: trainer.best.score}
        if trainer.best.epoch >= 0
        else None,
        "parameters": _agreed(parameter_counts(method, student) if student is not None else None),
        "seconds": {"total": total_seconds, "training": trainer.seconds, "per_epoch": trainer.seconds / trainer.epoch},
        "images_per_second": samples / trainer.seconds,
    }
    if accelerator.is_main_process:
        assert student is not None
        folder.require_place()
        try:
            _save_examples(folder, task, final, split, trainer)
            task.save_student(folder, student, method, final.figures)
            _try_to_show(lambda: write_report(folder.path, summary=summary), "the report", trainer)
        except Exception as error:  # libraries write here, and each raises its own errors
            reason = reason_of(error, folder.path)
            if reason is None:
                raise
            raise RunError(f"cannot write to {str(folder)!r}: {reason}") from error
        write_json(folder.summary, summary)  # written last: a run with status finished is complete
    elif trainer.shards is not None:  # sharded networks need every process to compute
        _try_to_show(lambda: task.save_examples(folder, split, task.examples(final)), "the gallery", trainer)
    accelerator.wait_for_everyone()
    return summary


def _whole_student(trainer: Trainer) -> nn.Module | None:
    """Returns the deployed student on the CPU; None on processes other than the main one if it is sharded."""
    method: Method | None = trainer.evaluated
    if trainer.shards is not None:
        method = trainer.shards.whole(trainer.method, holds=trainer.accelerator.is_main_process)
    return method.student().cpu().eval() if method is not None else None


def _agreed(value: dict[str, int] | None) -> dict[str, int]:
    """Broadcasts the main process's value to all processes."""
    (found,) = broadcast_object_list([value])
    assert found is not None
    return found


def parameter_counts(method: Method, student: nn.Module) -> dict[str, int]:
    """Returns the numbers of parameters that are ``trained`` (students and method) and ``deployed``."""
    return {
        "trained": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "deployed": sum(p.numel() for p in student.parameters()),
    }


def is_complete(folder: RunFolder) -> bool:
    """Whether a run is finished and has all files; missing files do not count without a checkpoint, from which :func:`conclude` writes them again."""
    if folder.read_summary().get("status") != "finished":
        return False
    made = (folder.predictions, folder.student, folder.student_description, folder.gallery)
    return all(path.exists() for path in made) or not folder.last.is_file()


def restore_report(folder: RunFolder) -> None:
    """Write the report of a finished run if it is missing."""
    if folder.is_run and folder.read_summary().get("status") == "finished" and not folder.report.is_file():
        write_report(folder.path)


def _try_to_show(write: Callable[[], object], what: str, trainer: Trainer) -> None:
    """Write an optional output such as the report; a failure is printed in a line and does not fail the run."""
    try:
        write()
    except Exception as error:  # image and plotting libraries raise many types
        if isinstance(error, RunError) or reason_of(error, trainer.folder.path):
            raise  # a full disk would prevent writing the other files too
        trainer.display.note(f"{what} could not be made: {type(error).__name__}: {' '.join(str(error).split())[:160]}")


def _save_examples(folder: RunFolder, task: Task, evaluation: Evaluation, split: str, trainer: Trainer) -> None:
    """Write the predictions file and the gallery folder, with as many samples as the task keeps; the folder may be empty."""
    tensors = {name: tensor.contiguous() for name, tensor in evaluation.predictions.items()}
    write_atomically(folder.predictions, lambda path: save_file(tensors, path))

    def save_gallery() -> None:
        shown = task.examples(evaluation)
        shutil.rmtree(folder.gallery, ignore_errors=True)
        folder.gallery.mkdir()
        task.save_examples(folder, split, shown)

    _try_to_show(save_gallery, "the gallery", trainer)
