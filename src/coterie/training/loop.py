"""The training loop. It uses only the protocols of methods (losses) and tasks (figures), and does not depend on a particular one.

A step does not synchronise with the host: losses are summed on the device, and a record on the device keeps the first step at which
each term was not finite. Both are read every ``training.log_every`` steps; the record also before every checkpoint.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor

from coterie.data.batch import Batch
from coterie.data.nested import Inputs
from coterie.errors import RunError
from coterie.methods.method import Method
from coterie.methods.progress import Progress
from coterie.randomness import derive_seed, seed_generator
from coterie.recipe import Recipe
from coterie.recipe.sections import resolved
from coterie.run_folder import MetricsLog, RunFolder
from coterie.tasks.evaluation import Evaluation
from coterie.tasks.figures import figures_of
from coterie.tasks.task import Task
from coterie.training.capture import CapturedStep, is_recorded
from coterie.training.display import Display, describe_figures
from coterie.training.divergence import DivergenceCheck
from coterie.training.freezing import Freezing
from coterie.training.interruption import Interrupted, Interruption
from coterie.training.loss_record import LossRecord
from coterie.training.memory_format import compiler_options, move_to_device
from coterie.training.optimization import RestartedSchedule, build_optimizer, build_own_optimizers
from coterie.training.sharding import Shards, require_shard_settings
from coterie.training.state import untrained_names, write_state
from coterie.training.stopping import BestEpoch
from coterie.training.teacher_cache import cached_teachers, precompute_teacher_logits
from coterie.training.tracking import tracked_validation


class Trainer:
    """The state of a training, and its steps.

    Args:
        recipe: the run's settings.
        task: provides batches and figures.
        method: the method to train, on the CPU; it is moved to the accelerator's device.
        accelerator: device, precision, processes, trackers.
        folder: where checkpoints and metrics are written.
        display: shows progress to the user.
    """

    def __init__(
        self,
        recipe: Recipe,
        task: Task,
        method: Method,
        accelerator: Accelerator,
        folder: RunFolder,
        display: Display,
    ) -> None:
        self.recipe, self.task, self.accelerator, self.folder, self.display = recipe, task, accelerator, folder, display
        self.figures = figures_of(recipe.task)
        settings = recipe.training
        require_shard_settings(recipe)  # checked again, because the optimizer is now chosen
        self.shards = Shards(method, task.sharded_networks(method), accelerator.device) if settings.shard else None
        self.method = move_to_device(method, accelerator.device, settings.channels_last is True)
        self.untrained = untrained_names(self.method) if self.shards is None else frozenset()
        self.has_written_untrained = not self.untrained
        self.ema = ModelEmaV3(self.method, decay=settings.ema, use_warmup=True) if settings.ema else None
        self.optimizer = build_optimizer(recipe.optimizer, self.method, fuses=recipe.network.freeze in {0, "backbone"})
        self.own_optimizers = build_own_optimizers(recipe, self.method)
        self.freezing = Freezing(
            recipe.network.freeze, self.method, accelerator.num_processes, resolved(recipe.network.hold_statistics)
        )
        self.freezing.apply(0)  # before DDP wraps the method: it synchronises what requires gradients then
        self.batches = task.data.train.steps_per_epoch
        self.steps_per_epoch = -(-self.batches // settings.accumulate)
        self.epochs = resolved(settings.epochs)
        self.schedule = RestartedSchedule(recipe.schedule, self.optimizer, self.epochs, self.steps_per_epoch)
        self.ends = [end for _, end in recipe.schedule.stretches(self.epochs)]  # of the training's stretches, in epochs
        self.progress = Progress(0, self.epochs, 0, self.epochs * self.steps_per_epoch, device=accelerator.device)
        prepared: Any = (self.method, self.optimizer)  # sharded networks synchronise their gradients themselves
        self.module, self.stepper = accelerator.prepare(*prepared) if self.shards is None else prepared
        self.compiled = (
            torch.compile(self.module, options=compiler_options(self.method)) if settings.compile else self.module
        )
        self.log = MetricsLog(folder.metrics, recipe.task)
        self.epoch = 0  # epochs that are done
        self.batch = 0  # batches of the present epoch that are done
        self.step = 0  # optimizer steps that are done
        self.seconds = 0.0  # spent training, without evaluations
        self.validated: Evaluation | None = (
            None  # of the weights as they are, by the last evaluation on the validation split
        )
        self.best = BestEpoch(self.figures[0], settings.patience, recipe.schedule.restarts)
        self.losses = LossRecord(accelerator)
        self.divergence = DivergenceCheck(self.method)
        self.unrecorded: str | None = None  # why recording the step failed
        self.captured = self._build_capture()

    def _build_capture(self) -> CapturedStep | None:
        if self.unrecorded or not is_recorded(self.recipe.training, self.accelerator):
            return None
        return CapturedStep(self._compute, self.method.parameters(), self.accelerator.device)

    @property
    def evaluated(self) -> Method:
        """The method that is evaluated and exported: the moving average if there is one."""
        return self.ema.module if self.ema is not None else self.method

    def fit(self, interruption: Interruption) -> None:
        """Train from the current state to the last epoch.

        Raises:
            RunError: a loss term is not finite, training has diverged, or the disk is full.
            Interrupted: a signal was received; the checkpoint is already written.
        """
        self.prepare()
        with self.display:
            while self.epoch < self.epochs and not self.best.is_over(self.epoch):
                self._train_epoch(interruption)
                self.epoch += 1
                self.batch = 0
                self.save(self.folder.last)
                if self.evaluates:
                    self.evaluate()
                    if self.method.needs_validation:  # the checkpoint must hold what it learned from the evaluation
                        self.save(self.folder.last, evaluated=True)
                if asked := interruption.requested_signal(self.accelerator):
                    raise Interrupted(asked, str(self.folder))
        if self.epoch < self.epochs:
            self.display.note(self.best.explain(self.epoch, self.epochs))

    def prepare(self) -> None:
        """Work before the first step, also of a resumed run: warnings and the cache of the teachers' logits."""
        started = time.perf_counter()
        network = self.recipe.network
        if self.task.network_names:  # whether a custom network has trained weights is unknown
            for note in self.freezing.warnings(network.weights_of is not None):
                self.display.note(note)
        precompute_teacher_logits(self.recipe.training, self.task, self.method, self.display)
        self.seconds += time.perf_counter() - started

    @property
    def evaluates(self) -> bool:
        """Whether the epoch that ended last is followed by an evaluation."""
        return self.epoch % self.recipe.training.evaluate_every == 0 or self.epoch in self.ends

    def _begin_epoch(self) -> None:
        """Applies what changes between epochs; all of it is a function of the epoch's number."""
        self.validated = None
        self.method.train()
        self.freezing.apply(self.epoch)
        if self.epoch and self.freezing.is_frozen(self.epoch - 1) and not self.freezing.is_frozen(self.epoch):
            self.display.note(f"epoch {self.epoch + 1}: the whole network is trained from here on (network.freeze)")
            self.captured = self._build_capture()  # more parameters get gradients now
        end = next(end for end in self.ends if end > self.epoch)
        self.progress.plan(end)
        if self.batch == 0:
            self.method.before_epoch(self.epoch)
        if self.epoch in self.ends and self.batch == 0:
            self.display.note(
                f"epoch {self.epoch + 1}: the learning-rate schedule starts anew, over the {end - self.epoch} epochs to epoch {end}"
            )

    def _train_epoch(self, interruption: Interruption) -> None:
        settings, accumulate = self.recipe.training, self.recipe.training.accumulate
        self._begin_epoch()
        started = time.perf_counter()
        for batch in self.task.data.train.epoch(self.epoch, self.batch):
            final = (self.batch + 1) % accumulate == 0 or self.batch + 1 == self.batches
            together = min(accumulate, self.batches - self.batch // accumulate * accumulate)
            self.train_batch(batch, final, together)
            self.batch += 1
            if not final:
                continue
            if self.step % settings.log_every == 0 or self.batch == self.batches:
                self._record()
            self.display.step(self.step)
            every = settings.checkpoint_steps
            asked = interruption.requested_signal(self.accelerator, self.step % settings.log_every == 0)
            if (every and self.step % every == 0) or asked:
                self.seconds += time.perf_counter() - started
                started = time.perf_counter()
                if self.batch < self.batches:
                    self.save(self.folder.last)
                    if asked:
                        raise Interrupted(asked, str(self.folder))
        self.seconds += time.perf_counter() - started

    def train_batch(self, batch: Batch, final: bool = True, together: int = 1) -> None:
        """Trains on one of ``together`` batches whose gradients are accumulated; ``final`` is followed by the optimizer step."""
        # Makes draws from the global generator (dropout, stochastic depth) a function of the position in training too.
        seed = derive_seed(self.recipe.seed, "step", self.epoch, self.batch, self.accelerator.process_index)
        seed_generator(seed, self.accelerator.device)
        self.progress.update(self.epoch, self.step)
        if final:
            self._forward_backward(batch, together)
            self._optimizer_step()
        else:
            with self.accelerator.no_sync(self.module):
                self._forward_backward(batch, together)

    def _forward_backward(self, batch: Batch, together: int) -> None:
        with cached_teachers(self.method, batch):
            if self.captured is None:
                self._compute(batch.inputs, batch.targets, batch.weight, together)
            else:
                self.captured(batch.inputs, batch.targets)
                if self.captured.failure is not None:
                    self.display.note(f"the step runs unrecorded, several times slower: {self.captured.failure}")
                    self.unrecorded, self.captured = self.captured.failure, None
        self.losses.count += 1

    def _compute(self, inputs: Inputs, targets: Tensor, weight: float = 1.0, together: int = 1) -> None:
        """Computes gradients and records the loss terms, all on the device and in place, so that it can be captured."""
        with self.accelerator.autocast():
            losses = self.compiled(inputs, targets, self.progress)
        total = torch.stack(tuple(losses.values())).sum()
        self.accelerator.backward(total * weight / together)
        self.losses.add(losses, self.progress.step, weight)

    def _optimizer_step(self) -> None:
        if self.recipe.training.clip_gradient is not None:
            self.accelerator.clip_grad_norm_(self.method.parameters(), self.recipe.training.clip_gradient)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        for own in self.own_optimizers.values():
            own.step()
            own.zero_grad(set_to_none=True)
        self.step += 1
        self.schedule.step_update(self.step)
        if self.ema is not None:
            self.ema.update(self.method, step=self.step)
        self.method.after_step(self.progress)

    def _record(self) -> None:
        """Write the mean of each term since the last row; raise if a term was not finite or training has diverged."""
        self._require_finite()
        losses = self.losses.read()
        if losses is None:
            return
        rate = self.optimizer.param_groups[0]["lr"]
        self.display.losses(losses, self.method.label_factor)
        self.divergence.add(losses, self.step)
        if self.accelerator.is_main_process:
            self.folder.require_place()
            row = {"epoch": self.epoch, "step": self.step, "split": "train", "losses": losses, "learning_rate": rate}
            self.log.append(row)
            self.accelerator.log({f"train/{k}": v for k, v in losses.items()} | {"learning_rate": rate}, step=self.step)
        if self.divergence.is_certain:
            raise RunError(self.divergence.explain(self._describe_checkpoint()))

    def _require_finite(self) -> None:
        bad = self.losses.not_finite()
        if bad is not None:
            step, name = bad
            raise RunError(
                f"the loss term {name!r} was not finite at step {step} (epoch {step // self.steps_per_epoch}); {self._describe_checkpoint()}. "
                "Try a lower optimizer.learning_rate, training.clip_gradient, or training.precision=fp32."
            )

    def _describe_checkpoint(self) -> str:
        if not self.folder.last.is_file():
            return "no checkpoint was written yet"
        return f"the checkpoint before it is kept in {self.folder}"

    def evaluate(self) -> None:
        """Evaluate on the validation split, log the figures, and save a checkpoint if they are the best so far."""
        loader = self.task.data.validation
        said = ""
        if loader is not None:
            method = self.evaluated
            evaluation = self.task.evaluate(method, loader)
            figures = evaluation.figures
            if not method.needs_validation:  # a method that learns from the evaluation predicts differently afterwards
                self.validated = evaluation
            for each in {self.method, method}:  # a moving average has its own buffers
                self.task.learn_from(each, evaluation)
            deployed = self.task.choose_deployed(method, evaluation).student
            figures["deployed"] = {"student": deployed, **figures["students"][deployed]}
            self.write_validation(figures)
            if warning := self.divergence.warning(self.task.chance_level(evaluation), self.step):
                self.display.note(warning)
            if self.best.add(figures, self.epoch - 1) and self.recipe.training.select == "best":
                self.save(self.folder.best)
            said = describe_figures(figures, self.method.leader, self.figures[0])
        self.display.epoch(self.epoch - 1, said)

    def write_validation(self, figures: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.folder.require_place()
            self.log.append({"epoch": self.epoch - 1, "step": self.step, "split": "validation", **figures})
            classes = len(self.task.data.info.class_names)
            tracked = tracked_validation(figures, self.method.leader, self.figures, classes)
            self.accelerator.log(tracked, step=self.step)

    def save(self, path: Any, evaluated: bool = False) -> None:
        """Write the whole state to a checkpoint; ``evaluated``: it includes the epoch's evaluation.

        While losses are far above chance, the last checkpoint is not replaced, except at the end of a stretch of the schedule:
        resuming from it repeats these steps.
        """
        self._require_finite()
        unsound = self.divergence.suspected and path == self.folder.last and self.epoch not in self.ends
        if not unsound:
            write_state(self, path, evaluated)
