"""Methods in other loops: the same losses and weights, to the bit, as in a loop by hand; moving averages and further optimizers go on."""

from __future__ import annotations

import pytest
import timm
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

import coterie
import coterie.networks  # registers the CIFAR networks with timm
from coterie.integrations import follow, save_student
from coterie.methods.progress import Progress
from coterie.networks.group import StudentGroup

EPOCHS, BATCH, SAMPLES = 2, 8, 24
STEPS = SAMPLES // BATCH
METHODS = ["okdmde", "pcl", "afd"]  # plain; a moving average after each step; an optimizer of its own


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SAMPLES, 3, 16, 16, generator=generator), torch.randint(4, (SAMPLES,), generator=generator)


def build(name: str):
    torch.manual_seed(1)
    network = timm.create_model("tiny_cifar", num_classes=4)
    example = images()[0][:2]
    if name == "afd":
        other = timm.create_model("tiny_cifar", num_classes=4)
        group = StudentGroup.of([network, other], example)
    else:
        group = coterie.branch(network, 3, "auto", example=example)
    return coterie.create_method(name, group)


def of_views(method, batch):
    """One tensor, or the same view for each that the method asks for."""
    return batch if method.views == 1 else [batch] * method.views


def by_hand(name: str):
    """What coterie's own loop does, written out."""
    method = build(name)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.05, momentum=0.9)
    own = method.build_optimizers()
    progress, seen, step = Progress(0, EPOCHS, 0, EPOCHS * STEPS), [], 0
    inputs, targets = images()
    for epoch in range(EPOCHS):
        method.before_epoch(epoch)
        for start in range(0, SAMPLES, BATCH):
            progress.update(epoch, step)
            losses = method(of_views(method, inputs[start : start + BATCH]), targets[start : start + BATCH], progress)
            total = torch.stack(tuple(losses.values())).sum()
            total.backward()
            for each in (optimizer, *own.values()):
                each.step()
                each.zero_grad(set_to_none=True)
            method.after_step(progress)
            seen.append(total.item())
            step += 1
    return method, seen


def same(first, second) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", METHODS)
def test_a_loop_that_only_steps_its_optimizer(name):
    expected, losses = by_hand(name)
    method, seen = build(name), []
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.05, momentum=0.9)
    progress = follow(method, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    for _ in range(EPOCHS):
        for inputs, targets in DataLoader(TensorDataset(*images()), BATCH):
            optimizer.zero_grad()
            total = torch.stack(tuple(method(of_views(method, inputs), targets, progress).values())).sum()
            total.backward()
            optimizer.step()
            seen.append(total.item())
    assert seen == losses
    same(method, expected)


def test_accelerate():
    expected, losses = by_hand("pcl")
    method, seen = build("pcl"), []
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.05, momentum=0.9)
    progress = follow(method, optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    accelerator = Accelerator(cpu=True)
    module, prepared, loader = accelerator.prepare(method, optimizer, DataLoader(TensorDataset(*images()), BATCH))
    for _ in range(EPOCHS):
        for inputs, targets in loader:
            prepared.zero_grad()
            total = torch.stack(tuple(module(of_views(method, inputs), targets, progress).values())).sum()
            accelerator.backward(total)
            prepared.step()
            seen.append(total.item())
    assert seen == losses
    same(method, expected)


@pytest.mark.parametrize("name", ["okdmde", "afd"])
def test_timm(name):
    from coterie.integrations.timm import MethodTask

    expected, losses = by_hand(name)
    method, seen = build(name), []
    task = MethodTask(method, verbose=False)
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.05, momentum=0.9)
    task.follow(optimizer, epochs=EPOCHS, steps_per_epoch=STEPS)
    for _ in range(EPOCHS):
        for inputs, targets in DataLoader(TensorDataset(*images()), BATCH):
            optimizer.zero_grad()
            result = task(inputs, targets)
            result["loss"].backward()
            optimizer.step()
            seen.append(result["loss"].item())
    assert seen == losses
    same(method, expected)
    task.eval()
    inputs = images()[0]
    torch.testing.assert_close(task.get_eval_model()(inputs), method.student().eval()(inputs))


@pytest.mark.parametrize("name", METHODS[:1])
def test_lightning(name, tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    from coterie.integrations.lightning import ExportStudent, MethodModule

    expected, _ = by_hand(name)
    method = build(name)
    loader = DataLoader(TensorDataset(*images()), BATCH)
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ExportStudent(tmp_path / "student.safetensors")],
    )  # fmt: skip
    module = MethodModule(method, lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9))
    trainer.fit(module, loader, loader)
    same(method, expected)
    assert "validation/top1" in trainer.callback_metrics
    plain = timm.create_model("tiny_cifar", num_classes=4)
    plain.load_state_dict(load_file(tmp_path / "student.safetensors"), strict=True)
    same(plain, method.student())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS[:1])
def test_transformers_trainer_of_images(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    from coterie.integrations.transformers import MethodTrainer

    expected, _ = by_hand(name)
    method = build(name)
    data = [{"pixel_values": image, "labels": label} for image, label in zip(*images(), strict=True)]
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=EPOCHS, per_device_train_batch_size=BATCH, learning_rate=0.05, optim="sgd",
        optim_args="momentum=0.9", lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", report_to="none", use_cpu=True,
        remove_unused_columns=False, disable_tqdm=True, logging_strategy="epoch",
    )  # fmt: skip

    class InOrder(MethodTrainer):
        def _get_train_sampler(self, *arguments):
            return torch.utils.data.SequentialSampler(data)

    trainer = InOrder(model=method, args=arguments, train_dataset=data)
    trainer.train()
    same(method, expected)
    logs = [logs for logs in trainer.state.log_history if "loss" in logs]
    assert len(logs) == EPOCHS
    for each in logs:
        terms = {name: value for name, value in each.items() if name.startswith("loss/")}
        assert len(terms) > 1
        assert sum(terms.values()) == pytest.approx(each["loss"], rel=1e-3)


@pytest.mark.slow
def test_transformers_trainer_of_texts(tmp_path):
    """Texts of several lengths, padded by transformers' own collator: the same weights as in a loop by hand."""
    transformers = pytest.importorskip("transformers")
    from coterie.integrations.transformers import MethodTrainer
    from coterie.tasks.texts.sequence_classifier import SequenceClassifier, SequenceGroup, example_inputs

    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=4,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip

    def build_texts():
        torch.manual_seed(1)
        networks = [transformers.BertForSequenceClassification(config) for _ in range(2)]
        example = example_inputs(1, length=12)
        group = SequenceGroup(None, [SequenceClassifier(each, example) for each in networks], example=example)
        return coterie.create_method("dml", group)

    generator = torch.Generator().manual_seed(0)
    data = []
    for number in range(SAMPLES):
        tokens = torch.randint(1, 50, (4 + number % 9,), generator=generator)
        data.append({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": number % 4})
    (tmp_path / "vocabulary.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    collate = transformers.DataCollatorWithPadding(transformers.BertTokenizer(str(tmp_path / "vocabulary.txt")))

    expected = build_texts()
    optimizer = torch.optim.SGD(expected.parameter_groups(), lr=0.05)
    progress = Progress(0, 1, 0, STEPS)
    for step, start in enumerate(range(0, SAMPLES, BATCH)):
        progress.update(0, step)
        batch = dict(collate(data[start : start + BATCH]))
        losses = expected(batch, batch.pop("labels"), progress)
        torch.stack(tuple(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    class InOrder(MethodTrainer):
        def _get_train_sampler(self, *arguments):
            return torch.utils.data.SequentialSampler(data)

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, per_device_train_batch_size=BATCH, learning_rate=0.05, optim="sgd",
        lr_scheduler_type="constant", max_grad_norm=0.0, save_strategy="no", report_to="none", use_cpu=True, remove_unused_columns=False,
        disable_tqdm=True,
    )  # fmt: skip
    method = build_texts()
    InOrder(model=method, args=arguments, train_dataset=data, data_collator=collate).train()
    same(method, expected)
    student = method.student()
    student.save_pretrained(tmp_path / "student")
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "student")
    same(loaded, student)


def test_a_student_is_saved_for_timm(tmp_path):
    method = build("okdmde")
    save_student(method, tmp_path / "new" / "student.safetensors")
    timm.create_model("tiny_cifar", num_classes=4).load_state_dict(
        load_file(tmp_path / "new" / "student.safetensors"), strict=True
    )


def test_what_another_loop_cannot_give_is_refused():
    method = build("okdmde")
    optimizer = torch.optim.SGD(method.parameter_groups(), lr=0.1)
    with pytest.raises(coterie.CoterieError, match="epochs=0, steps_per_epoch=3: expected numbers of at least 1"):
        follow(method, optimizer, epochs=0, steps_per_epoch=3)

    class Learner(type(method)):
        needs_validation = True

    method.__class__ = Learner
    with pytest.raises(coterie.CoterieError, match="learns from the validation split"):
        follow(method, optimizer, epochs=1, steps_per_epoch=3)
