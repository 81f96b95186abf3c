"""Causal language models as students and teachers. The positions that count are the batch axis of every method.

A batch is a mapping of ``input_ids`` int64 [B, L], ``positions`` and, if they are needed, ``attention_mask`` [B, L] and ``position_ids`` [B, L]. ``positions`` are those
whose logits count (they predict a learnt token), either as a mask, bool [B, L], or as indices into the flattened rows, int64 [P]; indices need no synchronisation with a GPU.
Logits are [P, V] for P positions that count, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from coterie.data.nested import Inputs
from coterie.errors import CoterieError
from coterie.losses import Projection, chunked_terms
from coterie.losses.chunked import Compare
from coterie.networks.group import StudentGroup
from coterie.networks.hugging_face import short_reason
from coterie.networks.recomputation import recomputed
from coterie.networks.teacher import Teachers
from coterie.networks.tracing import quiet_eval
from coterie.tasks.language.data.rows import label_positions
from coterie.tasks.language.logits import WHOLE_LOGITS, Finish, find_finish
from coterie.tasks.language.lora import has_lora, merged

TokenBatch = Mapping[str, Tensor]
PASSED_ON = ("input_ids", "attention_mask", "position_ids")


def example_batch(length: int = 4) -> dict[str, Tensor]:
    """A batch of two rows in which all positions but the last count. Every network takes it; it serves to measure shapes."""
    tokens = torch.arange(1, 2 * length + 1).view(2, length)
    return {"input_ids": tokens, "positions": label_positions(tokens)}


def gathered(values: Tensor, positions: Tensor) -> Tensor:
    """Select the values at some positions, [P, ...].

    Args:
        values: values of all positions, [B, L, ...].
        positions: as in a batch, bool [B, L] or int64 [P].
    """
    if positions.dtype == torch.bool:
        return values[positions]
    return values.flatten(0, 1).index_select(0, positions)


class _Gather:
    """Forward pre-hook of the output embedding: selects the hidden states of the positions that count, and keeps them.

    No logits of other positions are computed. The hook works for any architecture, since the network itself applies what follows its output embedding (caps, scales).

    Attributes:
        positions: the positions that count; None: the hook does nothing.
        hidden: the selected hidden states.
        probes: hidden states that replace the selected ones.
        without_logits: pass no position to the output embedding.
    """

    def __init__(self) -> None:
        self.positions: Tensor | None = None
        self.hidden: Tensor | None = None
        self.probes: Tensor | None = None
        self.without_logits = False

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self.positions is None:
            return None
        self.hidden = gathered(inputs[0], self.positions)
        if self.probes is not None:
            return (self.probes,)
        return (self.hidden[:0] if self.without_logits else self.hidden,)


class CausalLM(nn.Module):
    """A causal language model of transformers that returns logits of the positions that count.

    Args:
        network: a network of transformers, with or without LoRA. This module owns it afterwards.
        vocabulary: number of logits to return, counted from the first; None: all. See :func:`~coterie.tasks.language.networks.shared_vocabulary`.

    Attributes:
        never_trained: names in the state dict of the weights that LoRA leaves frozen; empty without LoRA. See :func:`coterie.training.state.untrained_names`.
        slices: whether all logits are computed first and then selected, because the network does not end with its output embedding.
        finish: what the network does after its output embedding; None: unknown, so the logits of the whole batch are computed at once.

    Raises:
        CoterieError: the network does not accept a batch, has no output embedding, or its logits depend on later tokens.
    """

    def __init__(self, network: nn.Module, vocabulary: int | None = None) -> None:
        super().__init__()
        self.network = network
        self.vocabulary = vocabulary
        self.slices = False
        self._gather = _Gather()
        self.never_trained: tuple[str, ...] = ()
        if has_lora(network):
            state = self.state_dict(keep_vars=True).items()
            self.never_trained = tuple(
                name for name, value in state if isinstance(value, nn.Parameter) and not value.requires_grad
            )
        self._require_causal()
        head = network.get_output_embeddings()  # type: ignore[operator]
        if head is None:
            raise CoterieError(f"{type(network).__name__} has no output embedding, which students need")
        self.classifier_name = next(name for name, module in self.named_modules() if module is head)
        self._hook = head.register_forward_pre_hook(self._gather)
        with quiet_eval(self):
            batch = self.example()
            expected = self._run(batch).logits[batch["positions"]]
            try:
                found = self._gathered(batch)[0]
                self.slices = found.shape != expected.shape or not torch.allclose(found, expected, atol=1e-4, rtol=1e-3)
            except (RuntimeError, IndexError, ValueError, TypeError):  # a head that asks for [B, L, d]
                self.slices = True
            self.finish = None if self.slices else self._find_finish(batch, expected)

    def _find_finish(self, batch: TokenBatch, expected: Tensor) -> Finish | None:
        """Find what follows the output embedding, and check it on a batch."""
        head = self.network.get_output_embeddings()  # type: ignore[operator]
        try:
            form = find_finish(head, self.network.config, lambda probes: self._gathered(batch, probes=probes)[0])
            if form is None:
                return None
            found = form(head(self._gathered(batch, without_logits=True)[1]))
        except (RuntimeError, IndexError, ValueError, TypeError):  # a network that needs at least one position
            return None
        if not torch.allclose(found, expected, atol=1e-4, rtol=1e-3):
            return None
        return replace(form, vocabulary=self.vocabulary)

    def example(self) -> dict[str, Tensor]:
        """:func:`example_batch` on the network's device, with tokens of its vocabulary."""
        device = next(self.network.parameters()).device
        batch = {name: value.to(device) for name, value in example_batch().items()}
        rows = self.network.get_input_embeddings().num_embeddings  # type: ignore[operator]
        return {**batch, "input_ids": batch["input_ids"] % rows}

    def _require_causal(self) -> None:
        """Check that changing the last token does not change earlier logits. An encoder loaded as a language model would see the tokens that it predicts."""
        batch = self.example()
        other = batch["input_ids"].clone()
        other[:, -1] = 0
        with quiet_eval(self.network):
            try:
                first, second = (self._run({"input_ids": each}).logits for each in (batch["input_ids"], other))
            except Exception as error:  # whatever an architecture raises
                raise CoterieError(
                    f"{type(self.network).__name__} does not take tokens alone: {short_reason(error)}"
                ) from None
        if not torch.allclose(first[:, :-1], second[:, :-1], atol=1e-4, rtol=1e-3):
            raise CoterieError(
                f"{type(self.network).__name__} is no causal language model: what it says of a token depends on later ones"
            )

    def _run(self, inputs: TokenBatch) -> Any:
        return self.network(
            **{name: inputs[name] for name in PASSED_ON if name in inputs}, use_cache=False, return_dict=True
        )

    def _gathered(
        self, inputs: TokenBatch, probes: Tensor | None = None, without_logits: bool = False
    ) -> tuple[Tensor, Tensor]:
        self._gather.positions = inputs["positions"]
        self._gather.probes, self._gather.without_logits = probes, without_logits
        try:
            logits = self._run(inputs).logits
            hidden = self._gather.hidden
        finally:
            self._gather.positions = self._gather.hidden = self._gather.probes = None
            self._gather.without_logits = False
        if hidden is None:
            raise RuntimeError("the output embedding was not called")
        return logits, hidden

    def _sliced(self, inputs: TokenBatch) -> tuple[Tensor, Tensor]:
        output = self.network(
            **{name: inputs[name] for name in PASSED_ON if name in inputs},
            use_cache=False,
            return_dict=True,
            output_hidden_states=True,
        )
        positions = inputs["positions"]
        return gathered(output.logits, positions), gathered(output.hidden_states[-1], positions)

    def forward(self, inputs: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits [P, V], embeddings [P, d] (last hidden states) and the same as feature maps of one token, [P, 1, d].

        Logits beyond the first ``vocabulary`` are left out.
        """
        logits, hidden = self._sliced(inputs) if self.slices else self._gathered(inputs)
        if self.vocabulary is not None:
            logits = logits[:, : self.vocabulary]
        return logits, hidden, hidden.unsqueeze(1)

    def hidden(self, inputs: TokenBatch) -> Tensor:
        """Return the input of the output embedding at the positions that count, [P, d], without computing logits.

        Only valid if :attr:`finish` is known.
        """
        return self._gathered(inputs, without_logits=True)[1]

    def projected(self, hidden: Tensor) -> Projection:
        """Return the logits of hidden states [P, d], equal to those of :meth:`forward`, as a projection that is not computed yet."""
        head = self.network.get_output_embeddings()  # type: ignore[operator]
        return Projection(hidden, head.weight, head.bias, self.finish)

    def plain(self) -> nn.Module:
        """Return a copy as a plain transformers network, with LoRA merged into its weights."""
        network = merged(self.network)
        hooks = network.get_output_embeddings()._forward_pre_hooks  # type: ignore[operator]
        hooks.pop(self._hook.id, None)  # an output embedding with LoRA is another module after merging
        return network


class LanguageGroup(StudentGroup):
    """Causal language models as peers; a student is a plain network of transformers.

    Students share no layers: the blocks of a decoder also pass masks and position tables, which a graph traced through the blocks alone does not show.
    Students may differ in architecture but need the same tokenizer.

    Args:
        students: at least one.
        example: a batch; None: the first student's own.

    Attributes:
        whole_logits: largest number of logits, of all students and teachers, to compute at once for a batch; above it, the losses are computed in chunks.

    Raises:
        CoterieError: students with different vocabularies.
    """

    def __init__(self, students: Sequence[CausalLM], example: TokenBatch | None = None) -> None:
        names = [each.classifier_name for each in students]
        super().__init__(None, students, example=example or students[0].example(), classifiers=names)
        self.whole_logits = WHOLE_LOGITS

    def is_in_parts(self, inputs: Inputs, teachers: int = 0) -> bool:
        """Return whether the batch's logits of the students and of ``teachers`` teachers are too many to compute at once, and can be computed in chunks."""
        if isinstance(inputs, list) or any(student.finish is None for student in self._students()):
            return False
        models = self.num_students + teachers
        return inputs["positions"].numel() * models * self.num_classes > self.whole_logits

    def _students(self) -> list[CausalLM]:
        return [each for each in self.branches if isinstance(each, CausalLM)]

    def projections(self, inputs: TokenBatch) -> list[Projection]:
        """Return every student's logits of a batch as projections that are not computed yet."""
        again = self.checkpoint_branches and self.training and torch.is_grad_enabled()
        found = []
        for each in self._students():
            hidden = recomputed(_HiddenStates(each), (inputs,)) if again else each.hidden(inputs)
            found.append(each.projected(hidden))
        return found

    def terms_in_parts(
        self,
        compare: Compare,
        inputs: Inputs,
        targets: Tensor,
        teachers: Teachers | None,
        parameters: Callable[[], Sequence[Tensor]],
    ) -> dict[str, Tensor] | None:
        """See :meth:`StudentGroup.terms_in_parts`. Hidden states are computed for the whole batch, logits in chunks of positions."""
        if not self.is_in_parts(inputs, len(teachers) if teachers is not None else 0):
            return None
        taught = teachers_projections(teachers, inputs) if teachers is not None else []
        return chunked_terms(compare, self.projections(inputs), taught, targets, parameters=parameters())

    def student(self, number: int) -> nn.Module:
        """See :meth:`StudentGroup.student`."""
        self.require_student(number)
        branch = self.branches[number]
        assert isinstance(branch, CausalLM)
        return branch.plain().train(self.training)


class _HiddenStates(nn.Module):
    """A student without its output embedding: a batch to hidden states."""

    def __init__(self, student: CausalLM) -> None:
        super().__init__()
        self.student = student

    def forward(self, inputs: TokenBatch) -> Tensor:
        return self.student.hidden(inputs)


@torch.no_grad()
def teachers_projections(teachers: Teachers, inputs: TokenBatch) -> list[Projection | Tensor]:
    """Return every teacher's logits of a batch as projections that are not computed yet, or as logits [P, V] if that is not possible."""
    if teachers.answer_from_cache:
        return list(teachers.logits(inputs))
    found: list[Projection | Tensor] = []
    for teacher in teachers.each():
        body = teacher.body
        if isinstance(body, CausalLM) and body.finish is not None and teacher.class_order is None:
            found.append(body.projected(body.hidden(inputs)))
        else:
            found.append(teacher(inputs).logits)
    return found
