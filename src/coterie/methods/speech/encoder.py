"""Speech encoders as student or teacher. Hidden states of padded clips equal those of each clip encoded alone.

A batch is a mapping: ``waveforms`` float32 [B, S], ``lengths`` int64 [B] in samples, ``distorted`` [B, S] if the student's input differs from the teachers', and ``taught``, [B, T,
layers, D] of each teacher, if their states were computed before.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from coterie.errors import CoterieError
from coterie.losses.precision import at_least_float32

SpeechBatch = Mapping[str, Any]
VARIANCE_FLOOR = 1e-7  # as in Wav2Vec2FeatureExtractor


class Frames(NamedTuple):
    """An encoder's output for a batch.

    Attributes:
        states: hidden states of the requested layers, [B, T, D] each. Number 0 is the first layer's input, number l the output of layer l.
        valid: which frames are valid (no padding), bool [B, T].
    """

    states: tuple[Tensor, ...]
    valid: Tensor


class _Lengths:
    """Lengths in samples of the clips that are being encoded; None: no padding, or not known."""

    def __init__(self) -> None:
        self.samples: Tensor | None = None


class _MaskedNorm(torch.autograd.Function):
    """Normalises each channel of a clip to mean 0 and variance 1 over the clip's valid frames, then applies weight and bias. Padding counts as 0 and gets no gradient.

    The backward pass is written out because autograd would store and traverse about ten tensors of the size of the first convolution's output, the largest of the network; this
    stores one.
    """

    @staticmethod
    def forward(context: Any, values: Tensor, count: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """Normalises maps, float32 [B, C, T], of which ``count`` [B] frames are valid."""
        inside = (torch.arange(values.shape[-1], device=values.device) < count[:, None])[:, None].to(values.dtype)
        total = count.clamp(min=1)[:, None].to(values.dtype)
        values = values * inside
        mean = values.sum(-1) / total
        square = torch.linalg.vector_norm(values, dim=-1).square() / total
        scale = (square - mean.square()).clamp(min=0).add(eps).rsqrt()
        factor = weight * scale
        context.save_for_backward(values, inside, total, mean, scale, weight)
        return torch.addcmul((bias - mean * factor)[..., None], values, factor[..., None])

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, inside, total, mean, scale, weight = context.saved_tensors
        summed = gradient.sum(-1)
        found = gradient * values
        along = (found.sum(-1) - mean * summed) * scale  # with respect to the normalised value, [B, C]
        slope = -weight * along * scale.square() / total
        level = -weight * summed * scale / total - slope * mean
        torch.addcmul(level[..., None], gradient, (weight * scale)[..., None], out=found)
        found.addcmul_(values, slope[..., None]).mul_(inside)
        return found, None, along.sum(0), summed.sum(0), None


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with mean and variance over a clip's valid frames. Padding would change them, and with them all of the clip's hidden states.

    Replaces the only layer of HuBERT's convolutions whose receptive field is the whole clip; without lengths it behaves like that layer.

    Args:
        layer: group norm with as many groups as channels.
        lengths: lengths of the current batch.
        kernels, strides: those of the convolutions up to this layer.
    """

    def __init__(self, layer: nn.GroupNorm, lengths: _Lengths, kernels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(layer.num_groups, layer.num_channels, layer.eps, layer.affine)
        self.weight, self.bias = layer.weight, layer.bias
        self.lengths, self.kernels, self.strides = lengths, tuple(kernels), tuple(strides)

    def forward(self, input: Tensor) -> Tensor:
        """Normalises maps [B, C, T]."""
        if self.lengths.samples is None:
            return super().forward(input)
        count = conv_frames(self.lengths.samples, self.kernels, self.strides)
        with torch.autocast(input.device.type, enabled=False):
            values = at_least_float32(input)
            normalised = _MaskedNorm.apply(values, count, self.weight.float(), self.bias.float(), self.eps)
            return normalised.to(input.dtype)

    def plain(self) -> nn.GroupNorm:
        """Returns the original layer."""
        layer = nn.GroupNorm(self.num_groups, self.num_channels, self.eps, self.affine)
        layer.weight, layer.bias = self.weight, self.bias
        return layer.train(self.training)


class _ScaledGradient(torch.autograd.Function):
    """Identity whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(context: Any, value: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * context.factor, None


def conv_frames(lengths: Tensor, kernels: Sequence[int], strides: Sequence[int]) -> Tensor:
    """Number of frames that convolutions produce from clips of these lengths in samples.

    >>> conv_frames(torch.tensor([16000, 400]), (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    tensor([49,  1])
    """
    for kernel, stride in zip(kernels, strides, strict=True):
        lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
    return lengths.clamp(min=0)


def normalised(waveforms: Tensor, lengths: Tensor) -> Tensor:
    """Normalises each clip to mean 0 and variance 1, as transformers' feature extractors do; padding stays 0.

    Args:
        waveforms: [B, S].
        lengths: int64 [B].
    """
    inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
    count = lengths.clamp(min=1)[:, None]
    mean = torch.where(inside, waveforms, 0.0).sum(1, keepdim=True) / count
    centred = torch.where(inside, waveforms - mean, 0.0)
    return centred / (centred.square().sum(1, keepdim=True) / count + VARIANCE_FLOOR).sqrt()


class SpeechEncoder(nn.Module):
    """An encoder of transformers (HuBERT, WavLM, wav2vec 2.0, data2vec and their like) that returns hidden states and a mask of the valid frames.

    Args:
        network: a model of transformers with convolutions like HuBERT's; this module takes ownership of it and modifies it.
        normalize: whether clips are normalised to mean 0 and variance 1.
        cnn_gradient: factor on the gradient that reaches the convolutions (``feature_grad_mult``).
        name: name in messages.

    Attributes:
        width: D.
        num_layers: number of transformer layers.

    Raises:
        CoterieError: an unsupported network.
    """

    def __init__(self, network: nn.Module, normalize: bool, cnn_gradient: float = 1.0, name: str = "") -> None:
        super().__init__()
        config: Any = getattr(network, "config", None)
        self.name = name or type(network).__name__
        convolutions = getattr(getattr(network, "feature_extractor", None), "conv_layers", None)
        if not hasattr(config, "conv_stride") or convolutions is None or not hasattr(network, "encoder"):
            raise CoterieError(
                f"{self.name!r} is {type(network).__name__}; expected an encoder of speech such as HubertModel, WavLMModel, Wav2Vec2Model or Data2VecAudioModel"
            )
        self.network = network
        self.normalize = normalize
        self.cnn_gradient = cnn_gradient
        self.kernels, self.strides = tuple(config.conv_kernel), tuple(config.conv_stride)
        self.width, self.num_layers = int(config.hidden_size), int(config.num_hidden_layers)
        if isinstance(mask := getattr(network, "masked_spec_embed", None), nn.Parameter):
            mask.requires_grad_(False)  # SpecAugment is off, and distributed training waits for every gradient
        if cnn_gradient == 0.0:
            network.feature_extractor.requires_grad_(False)
        self._lengths = _Lengths()
        for number, layer in enumerate(convolutions):
            found = getattr(layer, "layer_norm", None)
            if isinstance(found, nn.GroupNorm) and found.num_groups == found.num_channels:
                end = number + 1
                layer.layer_norm = MaskedGroupNorm(found, self._lengths, self.kernels[:end], self.strides[:end])
        self._hooks = [network.feature_extractor.register_forward_hook(self._scale_gradient)]  # type: ignore[union-attr]
        # data2vec stacks convolutions over frames: their outputs on padding would leak back into the clip.
        positions = [each for each in network.modules() if type(each).__name__.endswith("PositionalConvLayer")]
        self._hooks += [each.register_forward_hook(self._empty_padding) for each in positions]

    @property
    def stride(self) -> int:
        """Number of samples from one frame to the next."""
        return int(torch.tensor(self.strides).prod())

    @property
    def reach(self) -> int:
        """Receptive field of a frame, in samples."""
        reach, step = 1, 1
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            reach, step = reach + (kernel - 1) * step, step * stride
        return reach

    def frames(self, lengths: Tensor) -> Tensor:
        """Number of frames of clips of these lengths in samples, int64 [B]."""
        return conv_frames(lengths, self.kernels, self.strides)

    def _scale_gradient(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if self.cnn_gradient == 1.0 or not output.requires_grad:
            return None
        if self.cnn_gradient == 0.0:
            return output.detach()
        return _ScaledGradient.apply(output, self.cnn_gradient)

    def _empty_padding(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        if self._lengths.samples is None:
            return None
        count = self.frames(self._lengths.samples)
        return output * (torch.arange(output.shape[-1], device=output.device) < count[:, None])[:, None]

    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Sequence[int] | None = None) -> Frames:
        """Computes hidden states of clips.

        Args:
            waveforms: float32 [B, S]; values after a clip's end are ignored.
            lengths: int64 [B].
            layers: layers whose states are returned; None: all, including the first layer's input.
        """
        inside = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
        heard = normalised(waveforms, lengths) if self.normalize else torch.where(inside, waveforms, 0.0)
        kind = next(self.network.parameters()).dtype
        self._lengths.samples = lengths
        try:
            states = self.network(heard.to(kind), attention_mask=inside.long(), output_hidden_states=True).hidden_states
        finally:
            self._lengths.samples = None
        count = states[0].shape[1]
        valid = torch.arange(count, device=waveforms.device) < self.frames(lengths)[:, None]
        return Frames(tuple(states if layers is None else (states[layer] for layer in layers)), valid)

    def plain(self) -> nn.Module:
        """Returns a copy of the network without modifications."""
        network: Any = copy.deepcopy(self.network)
        for layer in network.feature_extractor.conv_layers:
            if isinstance(getattr(layer, "layer_norm", None), MaskedGroupNorm):
                layer.layer_norm = layer.layer_norm.plain()
        known = {hook.id for hook in self._hooks}
        for module in network.modules():
            for number in known & set(module._forward_hooks):
                module._forward_hooks.pop(number)
        found: nn.Module = network
        return found


class EncoderTeachers(nn.Module):
    """Frozen encoders: in eval mode even under ``train()``, without gradients, and not part of checkpoints or optimizers.

    Args:
        members: at least one.
    """

    def __init__(self, members: Sequence[SpeechEncoder]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> EncoderTeachers:
        """Stays in eval mode: no dropout, LayerDrop or SpecAugment."""
        return super().train(False)

    def __deepcopy__(self, memory: dict[int, Any]) -> EncoderTeachers:
        """Returns itself: frozen networks need no second copy (by a moving average, for example)."""
        return self

    def __len__(self) -> int:
        return len(self.members)

    def each(self) -> list[SpeechEncoder]:
        """The teachers in order."""
        return [member for member in self.members if isinstance(member, SpeechEncoder)]

    @torch.no_grad()
    def forward(self, waveforms: Tensor, lengths: Tensor, layers: Sequence[Sequence[int]]) -> list[Frames]:
        """Returns every teacher's states of its layers. Teachers run one after the other, and only these states are kept."""
        pairs = zip(self.each(), layers, strict=True)
        return [teacher(waveforms, lengths, chosen) for teacher, chosen in pairs]
