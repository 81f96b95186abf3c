"""The trainer of docs/language-trainers.md does what it says; the page itself is run by test_docs."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

from coterie.losses import ranking_distillation

PAGE = Path(__file__).parents[2] / "docs" / "language-trainers.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def page():
    """The names of the page's block with the trainer: the class, and random language models by width and layers."""
    names = {"__name__": "page"}
    exec(BLOCKS[0][: BLOCKS[0].index("tokens = ")], names)
    return names


def texts():
    """Eight texts whose first tokens are prompts of unequal lengths, which do not count."""
    generator = torch.Generator().manual_seed(0)
    for number in range(8):
        tokens = torch.randint(300, (20,), generator=generator)
        labels = tokens.clone()
        labels[: 2 * number] = -100
        yield {"input_ids": tokens, "labels": labels}


def trained(page, tmp_path, batch_size, **changes):
    torch.manual_seed(0)
    student, teacher = page["tiny"](16, 1), page["tiny"](32, 2)
    weights = copy.deepcopy(student.state_dict())
    from transformers import TrainingArguments  # here: every worker imports this file, one of them runs it

    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=batch_size, max_grad_norm=0.0, optim="sgd",
        gradient_accumulation_steps=8 // batch_size, learning_rate=1.0, lr_scheduler_type="constant", save_strategy="no",
        report_to="none", use_cpu=True, disable_tqdm=True, **changes,
    )  # fmt: skip
    trainer = page["DistillationTrainer"](student, arguments, train_dataset=list(texts()), teacher=teacher)
    trainer.train()
    return weights, student, teacher


@pytest.mark.parametrize("batch_size", [8, 2])
def test_one_step_is_that_of_the_mean_over_all_tokens_that_count(page, tmp_path, batch_size):
    from transformers import Trainer

    assert issubclass(page["DistillationTrainer"], Trainer)
    weights, student, teacher = trained(page, tmp_path, batch_size)
    plain = page["tiny"](16, 1)
    plain.load_state_dict(weights)
    batch = {key: torch.stack([each[key] for each in texts()]) for key in ("input_ids", "labels")}
    with torch.no_grad():
        teacher_logits = teacher(batch["input_ids"]).logits
    counts = batch["labels"][:, 1:] != -100
    logits = plain(batch["input_ids"]).logits[:, :-1]
    ranking_distillation(logits, teacher_logits[:, :-1], counts, k=5).backward()
    for (name, ours), expected in zip(student.named_parameters(), plain.parameters(), strict=True):
        moved = weights[name] - ours.detach()
        torch.testing.assert_close(moved, expected.grad, atol=1e-5, rtol=1e-3, msg=name)
    assert any((weights[name] != each).any() for name, each in student.state_dict().items())


def test_trls_trainer_learns_from_the_completions_alone(page, tmp_path, monkeypatch):
    pytest.importorskip("trl", reason="TRL is not installed: the page's last block is only compiled")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    counted = []

    class Noting(page["Distillation"]):
        def compute_loss(self, model, inputs, *args, **kwargs):
            counted.append([self.processing_class.decode(row[row != -100]) for row in inputs["labels"]])
            return super().compute_loss(model, inputs, *args, **kwargs)

    names = {**page, "Distillation": Noting}
    exec(BLOCKS[-1], names)
    assert len(names["trainer"].state.log_history) >= 1
    assert counted
    assert all(text.startswith(" After it comes") for batch in counted for text in batch)


def test_the_block_for_trl_is_python():
    compile(BLOCKS[-1], str(PAGE), "exec")
    assert "from trl import" in BLOCKS[-1]
