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
from coterie.methods.method import Method
from coterie.methods.options import NonNegative, Positive
from coterie.methods.progress import Progress
from coterie.methods.speech.encoder import EncoderTeachers, SpeechBatch, SpeechEncoder
from coterie.methods.speech.heads import PredictionHeads
from coterie.methods.teacher.taught import single_view

SECONDS = (1, 5, 15)  # of clips whose frames are counted
Layer = Annotated[int, Field(ge=0)]


class Compared(NamedTuple):
    """What the student predicts of a teacher's layer.

    Attributes:
        teacher: its number.
        layer: number of the hidden state.
        predicted, target: [B, T, D].
    """

    teacher: int
    layer: int
    predicted: Tensor
    target: Tensor


class EnsembleKD(Method):
    r"""One small encoder learns hidden states of several large ones, frame by frame, through heads that are dropped afterwards.

    With :math:`h^m_l` layer l of teacher m and :math:`\hat y` a head's prediction, each head has DistilHuBERT's loss

    .. math:: \overline{|\hat y - h|} + \lambda\, \overline{-\log \sigma(\cos(\hat y, h))}

    and heads are averaged. Of the paper abstract and introduction could be read: the names of the aggregations and that average was found better than concatenation, and several
    heads better still. Their formulas are the natural reading of these names; heads, loss and λ are those of DistilHuBERT's official code (s3prl), on which the paper builds.

    Args:
        encoder: the student.
        teachers: one or several, with the student's frame rate.
        aggregation: ``heads``: one for each teacher and layer (N·M heads; means over layers, then over teachers). ``average``: one for each layer, which predicts the mean of the
            teachers' states; ``concatenation``: one for each layer, which predicts all of them side by side. One teacher makes all three DistilHuBERT's loss.
        layers: which hidden states of each teacher are learnt: one list for all teachers, or one for each. None: at a third, two thirds and the end of each (4, 8 and 12 of twelve).
        cosine_weight: λ, 1 (code).
        ignore_padding: False counts padded frames too, as the code does.
        teacher_weights: of the teachers in the mean, one each; None: equal. Not with concatenation.
        normalize: ``frame``: each state is normalised over its features first, so that no teacher counts more because its numbers are larger. ``none`` (code).
        residual_weight: of further heads that predict how the teachers differ from their average, with ``average`` only. A reconstruction: of "Inter-Teacher Differences" (ISCSLP 2024),
            which adds residual heads, the abstract could be read. With M teachers M - 1 differences have heads, since all add up to 0.

    Losses: ``distillation``, and ``residual`` with a weight.

    Raises:
        CoterieError: no teacher, other frame rates, layers that are not there, widths that cannot be averaged, or settings that have no effect.
    """

    needs_teacher: ClassVar[bool] = True
    max_students: ClassVar[int | None] = 1

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
        self._teachers = (teachers,)  # in a tuple: not trained, averaged or saved
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
        """Over heads."""
        pairs = zip(predicted, wanted, strict=True)
        return torch.stack([frame_distance(own, other, mask, self.cosine_weight) for own, other in pairs]).mean()

    def _taught(self, batch: SpeechBatch, teachers: EncoderTeachers) -> tuple[list[list[Tensor]], Tensor]:
        """Each teacher's states of its layers, of equally many frames; and which of these are no padding."""
        if "taught" in batch:
            return self._remembered(batch["lengths"], batch["taught"])
        found = teachers(batch["waveforms"], batch["lengths"], self.layers)
        length = min(each.valid.shape[1] for each in found)
        states = [[self._normalised(state[:, :length]) for state in each.states] for each in found]
        return states, torch.stack([each.valid[:, :length] for each in found]).all(0)

    def _remembered(self, lengths: Tensor, taught: Sequence[Tensor]) -> tuple[list[list[Tensor]], Tensor]:
        """The same of states that come with the batch, [B, T, layers, D] of each teacher."""
        length = min(each.shape[1] for each in taught)
        states = [[self._normalised(state) for state in each[:, :length].float().unbind(2)] for each in taught]
        counts = torch.stack([each.frames(lengths) for each in self.encoders.each()]).amin(0)
        return states, torch.arange(length, device=lengths.device) < counts[:, None]

    def _normalised(self, state: Tensor) -> Tensor:
        return state if self.normalize == "none" else F.layer_norm(state.float(), state.shape[-1:])

    def _heard(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """The student's last state, of what it hears, and which frames are no padding."""
        frames = self.encoder(batch.get("distorted", batch["waveforms"]), batch["lengths"], [self.encoder.num_layers])
        return frames.states[0], frames.valid

    def _wanted(self, states: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
        """What the heads of each block shall predict."""
        if self.aggregation == "heads":
            return [list(several) for several in states]
        weights = self.weights if self.aggregation == "average" else None
        by_layer = zip(*states, strict=True)
        return [[aggregated(several, self.aggregation, weights) for several in by_layer]]

    def compare(self, inputs: SpeechBatch, teachers: EncoderTeachers | None = None) -> tuple[list[Compared], Tensor]:
        """What the student predicts of every teacher and layer, beside what they say; and which frames are no padding, bool [B, T].

        An average is compared with each teacher's own state, a concatenation teacher by teacher. Where residual heads say how the teachers differ, that is added.

        Args:
            inputs: a batch.
            teachers: in place of its own, where these have no weights any more.
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
        """Predictions [N, B, T, D] of each teacher."""
        if self.aggregation == "heads":
            return predicted
        if self.aggregation == "concatenation":
            return list(predicted[0].split([each.width for each in self.encoders.each()], dim=-1))
        count = len(self.layers)
        if self.residual_heads is None:
            return predicted * count
        residual = list(self.residual_heads(frames).split(len(self.layers[0])))
        weighted = [weight * each for weight, each in zip(self.weights, residual, strict=False)]
        residual.append(-sum_of(weighted) / self.weights[-1])  # differences from the mean add up to 0
        return [predicted[0] + each for each in residual]

    def student(self) -> nn.Module:
        """The plain encoder, without heads."""
        return self.encoder.plain()


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """Of at least one tensor."""
    return torch.stack(tuple(tensors)).sum(0)


def _require_frame_rate(encoder: SpeechEncoder, teachers: Sequence[SpeechEncoder]) -> None:
    """A frame may be missing at the end, no more.

    Raises:
        CoterieError: another rate.
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
    """Which hidden states of each teacher are learnt.

    Args:
        teachers: in their order.
        given: one list for all, or one for each; None: at a third, two thirds and the end of each.
        aligned: each teacher needs as many as the others.

    Raises:
        CoterieError: none, twice the same, or one that a teacher does not have.
    """
    if given is None:
        chosen = [sorted({round(each.num_layers * part / 3) for part in (1, 2, 3)} - {0}) for each in teachers]
        if aligned:  # of a shallow teacher the deepest ones
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
