"""EKD: ensemble knowledge distillation of self-supervised speech models (Huang et al., ICASSP 2023, arXiv 2302.12757)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from coterie.errors import CoterieError
from coterie.losses.frames import aggregated, frame_distance
from coterie.methods.method import Method, Unused
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.speech.encoder import EncoderTeachers, SpeechBatch, SpeechEncoder
from coterie.methods.speech.heads import PredictionHeads
from coterie.methods.teacher.taught import single_view

SECONDS = (1, 5, 15)  # clip lengths at which frame rates are compared
Layer = Annotated[int, Field(ge=0)]


class Compared(NamedTuple):
    """The student's prediction of a teacher's layer.

    Attributes:
        teacher: index of the teacher.
        layer: index of the hidden state.
        predicted, target: [B, T, D].
    """

    teacher: int
    layer: int
    predicted: Tensor
    target: Tensor


class EnsembleKD(Method):
    r"""Trains one small encoder on the hidden states of several large ones, frame by frame, through heads that are removed after training.

    With :math:`h^m_l` layer l of teacher m and :math:`\hat y` a head's prediction, the loss of each head is DistilHuBERT's:

    .. math:: \overline{|\hat y - h|} + \lambda\, \overline{-\log \sigma(\cos(\hat y, h))}

    The loss is the mean over heads. Only the paper's abstract and introduction could be read. They name the aggregations and say that average was better than concatenation, and
    several heads better still. The formulas here are the natural reading of these names; heads, loss and λ are those of DistilHuBERT's official code (s3prl), on which the paper
    builds.

    Args:
        encoder: the student.
        teachers: one or several, with the student's frame rate.
        aggregation: ``heads``: one for each teacher and layer (N·M heads; means over layers, then over teachers). ``average``: one for each layer, which predicts the mean of the
            teachers' states; ``concatenation``: one for each layer, which predicts their concatenation. With one teacher all three are DistilHuBERT's loss.
        layers: the hidden states of each teacher to learn: one list for all teachers, or one for each. None: at one third, two thirds and the end of each (4, 8 and 12 of twelve).
        cosine_weight: λ, 1 (code).
        ignore_padding: whether padded frames are excluded from the loss; False includes them, as the code does.
        teacher_weights: one weight for each teacher in the mean; None: equal. Not with concatenation.
        normalize: ``frame``: each state is first normalised over its features, so that no teacher dominates by the scale of its features. ``none`` (code).
        residual_weight: weight of additional heads that predict each teacher's difference from the average, with ``average`` only. A reconstruction: only the abstract of
            "Inter-Teacher Differences" (ISCSLP 2024), which adds residual heads, could be read. With M teachers, M - 1 differences have heads, since all sum to 0.

    Losses: ``distillation``, and ``residual`` if it has a weight.

    Raises:
        CoterieError: no teacher, different frame rates, layers that do not exist, widths that cannot be averaged, or settings without effect.
    """

    needs_teacher: ClassVar[bool] = True
    max_students: ClassVar[int | None] = 1
    unused: ClassVar[Unused] = {
        "aggregation=concatenation": ("teacher_weights",),
        "aggregation!=average": ("residual_weight",),
    }

    def __init__(
        self,
        encoder: SpeechEncoder,
        *,
        teachers: EncoderTeachers | None = None,
        aggregation: Literal["heads", "average", "concatenation"] = "heads",
        layers: list[Layer] | list[list[Layer]] | None = None,
        cosine_weight: NonNegative = 1.0,
        ignore_padding: bool = True,
        teacher_weights: list[Positive] | None = None,
        normalize: Literal["none", "frame"] = "none",
        residual_weight: NonNegative = 0.0,
    ) -> None:
        super().__init__()
        if teachers is None:
            raise CoterieError(
                "ekd needs teachers: set teachers=[FOLDER, ...], or teacher.network (`coterie list settings teacher`)"
            )
        if not isinstance(encoder, SpeechEncoder):
            raise CoterieError(f"ekd trains an encoder of speech, got {type(encoder).__name__}")
        self.encoder = encoder
        self._teachers = (teachers,)  # in a tuple, so that they are not trained, averaged or saved
        self.aggregation = aggregation
        self.cosine_weight, self.ignore_padding, self.normalize = cosine_weight, ignore_padding, normalize
        self.residual_weight = residual_weight
        members = teachers.each()
        _require_frame_rate(encoder, members)
        self.layers = chosen_layers(members, layers, aligned=aggregation != "heads")
        self.weights = self._weights(teacher_weights)
        widths = [each.width for each in members]
        count = len(self.layers[0])
        if aggregation == "average" and len(set(widths)) > 1:
            raise CoterieError(
                f"method.aggregation=average: the teachers' states have {widths} features; use heads or concatenation"
            )
        if residual_weight and (aggregation != "average" or len(members) < 2):
            raise CoterieError(
                "method.residual_weight has an effect with method.aggregation=average and several teachers only"
            )
        if aggregation == "heads":
            sizes = [(len(chosen), width) for chosen, width in zip(self.layers, widths, strict=True)]
        else:
            sizes = [(count, widths[0] if aggregation == "average" else sum(widths))]
        self.heads = nn.ModuleList(PredictionHeads(encoder.width, number, size) for number, size in sizes)
        self.residual_heads: PredictionHeads | None = None
        if residual_weight:
            self.residual_heads = PredictionHeads(encoder.width, count * (len(members) - 1), widths[0])

    def _weights(self, given: list[float] | None) -> list[float]:
        count = len(self._teachers[0])
        if given is None:
            return [1 / count] * count
        if len(given) != count:
            raise CoterieError(f"method.teacher_weights={given}: there are {count} teachers")
        if self.aggregation == "concatenation":
            raise CoterieError("method.teacher_weights has no effect with method.aggregation=concatenation")
        return [each / sum(given) for each in given]

    @property
    def networks(self) -> nn.Module:
        return self.encoder

    @property
    def encoders(self) -> EncoderTeachers:
        """The teachers."""
        return self._teachers[0]

    def _apply(self, function: Any, recurse: bool = True) -> EnsembleKD:
        super()._apply(function, recurse)
        self.encoders._apply(function)
        return self

    def forward(self, inputs: SpeechBatch, targets: Any = None, progress: Progress | None = None) -> dict[str, Tensor]:
        batch = single_view(inputs)
        states, valid = self._taught(batch, self.encoders)
        frames, own = self._heard(batch)
        length = min(frames.shape[1], valid.shape[1])
        frames, own = frames[:, :length], own[:, :length]
        mask = (valid[:, :length] & own) if self.ignore_padding else None
        states = [[each[:, :length] for each in several] for several in states]
        wanted = self._wanted(states)
        parts = [self._mean(heads(frames), several, mask) for heads, several in zip(self.heads, wanted, strict=True)]
        weights = self.weights if self.aggregation == "heads" else [1.0]
        losses = {"distillation": sum_of([weight * part for weight, part in zip(weights, parts, strict=True)])}
        if self.residual_heads is not None:
            others = [state - mean for several in states[:-1] for state, mean in zip(several, wanted[0], strict=True)]
            losses["residual"] = self.residual_weight * self._mean(self.residual_heads(frames), others, mask)
        return losses

    def _mean(self, predicted: Tensor, wanted: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Mean loss over heads."""
        pairs = zip(predicted, wanted, strict=True)
        return torch.stack([frame_distance(own, other, mask, self.cosine_weight) for own, other in pairs]).mean()

    def _taught(self, batch: SpeechBatch, teachers: EncoderTeachers) -> tuple[list[list[Tensor]], Tensor]:
        """Returns each teacher's states of its layers, cut to the same number of frames, and which frames are valid (no padding)."""
        if "taught" in batch:
            return self._remembered(batch["lengths"], batch["taught"])
        found = teachers(batch["waveforms"], batch["lengths"], self.layers)
        length = min(each.valid.shape[1] for each in found)
        states = [[self._normalised(state[:, :length]) for state in each.states] for each in found]
        return states, torch.stack([each.valid[:, :length] for each in found]).all(0)

    def _remembered(self, lengths: Tensor, taught: Sequence[Tensor]) -> tuple[list[list[Tensor]], Tensor]:
        """Like :meth:`_taught`, from states that come with the batch, [B, T, layers, D] of each teacher."""
        length = min(each.shape[1] for each in taught)
        states = [[self._normalised(state) for state in each[:, :length].float().unbind(2)] for each in taught]
        counts = torch.stack([each.frames(lengths) for each in self.encoders.each()]).amin(0)
        return states, torch.arange(length, device=lengths.device) < counts[:, None]

    def _normalised(self, state: Tensor) -> Tensor:
        return state if self.normalize == "none" else F.layer_norm(state.float(), state.shape[-1:])

    def _heard(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Returns the student's last hidden state of its own input, and which frames are valid (no padding)."""
        frames = self.encoder(batch.get("distorted", batch["waveforms"]), batch["lengths"], [self.encoder.num_layers])
        return frames.states[0], frames.valid

    def _wanted(self, states: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """Targets of each block of heads."""
        if self.aggregation == "heads":
            return [list(several) for several in states]
        weights = self.weights if self.aggregation == "average" else None
        by_layer = zip(*states, strict=True)
        return [[aggregated(several, self.aggregation, weights) for several in by_layer]]

    def compare(self, inputs: SpeechBatch, teachers: EncoderTeachers | None = None) -> tuple[list[Compared], Tensor]:
        """Returns the student's predictions and the targets of every teacher and layer, and which frames are valid (no padding), bool [B, T].

        A predicted average is compared with each teacher's state, a concatenation with each teacher's part. The predictions of residual heads are added.

        Args:
            inputs: a batch.
            teachers: used in place of the method's own, if these no longer have weights.
        """
        states, valid = self._taught(inputs, teachers or self.encoders)
        frames, own = self._heard(inputs)
        length = min(frames.shape[1], valid.shape[1])
        frames, valid = frames[:, :length], valid[:, :length] & own[:, :length]
        predicted = self._by_teacher([heads(frames) for heads in self.heads], frames)
        found = [
            Compared(number, layer, predicted[number][place], states[number][place][:, :length])
            for number, chosen in enumerate(self.layers)
            for place, layer in enumerate(chosen)
        ]
        return found, valid

    def _by_teacher(self, predicted: list[Tensor], frames: Tensor) -> list[Any]:
        """Predictions [N, B, T, D] for each teacher."""
        if self.aggregation == "heads":
            return predicted
        if self.aggregation == "concatenation":
            return list(predicted[0].split([each.width for each in self.encoders.each()], dim=-1))
        count = len(self.layers)
        if self.residual_heads is None:
            return predicted * count
        residual = list(self.residual_heads(frames).split(len(self.layers[0])))
        weighted = [weight * each for weight, each in zip(self.weights, residual, strict=False)]
        residual.append(-sum_of(weighted) / self.weights[-1])  # weighted differences from the mean sum to 0
        return [predicted[0] + each for each in residual]

    def student(self) -> nn.Module:
        """Returns the plain encoder, without heads."""
        return self.encoder.plain()


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Sum of at least one tensor."""
    return torch.stack(tuple(tensors)).sum(0)


def _require_frame_rate(encoder: SpeechEncoder, teachers: Sequence[SpeechEncoder]) -> None:
    """Checks that the frame rates are equal; the number of frames may differ by one at the end.

    Raises:
        CoterieError: a different rate.
    """
    lengths = 16_000 * torch.tensor(SECONDS)
    for teacher in teachers:
        if (teacher.frames(lengths) - encoder.frames(lengths)).abs().max() > 1:
            raise CoterieError(
                f"the teacher {teacher.name!r} has a frame every {teacher.stride} samples, the student every {encoder.stride}; they need one frame rate"
            )


def chosen_layers(
    teachers: Sequence[SpeechEncoder], given: list[int] | list[list[int]] | None, aligned: bool
) -> list[list[int]]:
    """Returns which hidden states of each teacher are learned.

    Args:
        teachers: the teachers in order.
        given: one list for all, or one for each; None: at one third, two thirds and the end of each.
        aligned: whether all teachers must have the same number of layers.

    Raises:
        CoterieError: no layer, a layer given twice, or one that a teacher does not have.
    """
    if given is None:
        chosen = [sorted({round(each.num_layers * part / 3) for part in (1, 2, 3)} - {0}) for each in teachers]
        if aligned:  # for a shallow teacher keep the deepest ones
            most = min(map(len, chosen))
            chosen = [each[len(each) - most :] for each in chosen]
    elif given and isinstance(given[0], list):
        chosen = [list(each) for each in given]
        if len(chosen) != len(teachers):
            raise CoterieError(f"method.layers={given}: there are {len(teachers)} teachers")
    else:
        chosen = [list(given)] * len(teachers)  # type: ignore[arg-type]
    for teacher, layers in zip(teachers, chosen, strict=True):
        if not layers or len(set(layers)) < len(layers):
            raise CoterieError(f"method.layers={given}: expected different numbers of hidden states, at least one")
        if max(layers) > teacher.num_layers:
            raise CoterieError(
                f"method.layers={given}: the teacher {teacher.name!r} has the hidden states 0 to {teacher.num_layers}"
            )
    if aligned and len(set(map(len, chosen))) > 1:
        raise CoterieError(f"method.layers={given}: method.aggregation needs equally many layers of each teacher")
    return chosen
