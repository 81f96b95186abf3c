"""Losses from hidden states in chunks of positions: value and gradients are those of the logits, and the logits never exist."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.errors import CoterieError
from coterie.losses import DIVERGENCES, Projection, chunked_mean, chunked_terms, forward_kl, ranking_distillation
from coterie.losses.chunked import chunk_positions

POSITIONS, VOCABULARY = 23, 31


def cross_entropy(logits, labels):
    return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels, reduction="none")


def both(logits, teacher_logits, labels):
    """Several terms in one pass."""
    return cross_entropy(logits, labels) + ranking_distillation(logits, teacher_logits, k=4, reduction="none")


LOSSES = {
    "cross_entropy": lambda s, t, y: cross_entropy(s, y),
    **{
        name: lambda s, t, y, function=function: function(s, t, 2.0, reduction="none")
        for name, function in DIVERGENCES.items()
    },
    "ranking": lambda s, t, y: ranking_distillation(s, t, k=4, divergence=None, reduction="none"),
    "rlkd": lambda s, t, y: ranking_distillation(s, t, k=4, dynamic_weight=True, reduction="none"),
    "both": both,
}


class Models:
    """Student of width 6 with a bias, teacher of width 9 without one, labels and weights."""

    def __init__(self, dtype=torch.float64, shape=(POSITIONS,)):
        def draw(*size):
            return torch.randn(*size, dtype=dtype)

        self.hidden, self.weight, self.bias = draw(*shape, 6), draw(VOCABULARY, 6), draw(VOCABULARY)
        self.parameters = [each.requires_grad_() for each in (self.hidden, self.weight, self.bias)]
        self.teacher = Projection(draw(*shape, 9), draw(VOCABULARY, 9))
        self.labels = torch.randint(VOCABULARY, shape)
        self.weights = torch.rand(shape).where(torch.rand(shape) > 0.3, 0.0).to(dtype)

    def chunked(self, loss, weights, size):
        student = Projection(self.hidden, self.weight, self.bias)
        return chunked_mean(loss, student, self.teacher, self.labels, weights=weights, chunk_size=size)

    def whole(self, loss, weights):
        logits = F.linear(self.hidden, self.weight, self.bias)
        values = loss(logits, F.linear(self.teacher.hidden, self.teacher.weight), self.labels)
        if weights is None:
            return values.mean()
        return (values * weights).sum() / weights.sum()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradients_are_those_of_all_logits_at_once(name, size, weighted):
    models = Models()
    weights = models.weights if weighted else None
    ours, theirs = models.chunked(LOSSES[name], weights, size), models.whole(LOSSES[name], weights)
    torch.testing.assert_close(ours, theirs)
    # A factor, as a gradient scaler or a loss's weight is one.
    gradients = [torch.autograd.grad(3 * each, models.parameters) for each in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.slow
def test_gradient_by_finite_differences():
    models = Models()

    def loss(hidden, weight, bias):
        student = Projection(hidden, weight, bias)
        kl = partial(forward_kl, reduction="none")
        return chunked_mean(kl, student, models.teacher, weights=models.weights, chunk_size=5)

    assert torch.autograd.gradcheck(loss, models.parameters)


def test_positions_of_two_axes_and_a_mask():
    models = Models(shape=(3, 8))
    mask = torch.rand(3, 8) > 0.4
    loss = partial(LOSSES["rlkd"])
    ours, theirs = models.chunked(loss, mask, 4), models.whole(loss, mask.double())
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(each, models.parameters) for each in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, expected)
    assert not gradients[0][0][~mask].any()


def test_padding_may_hold_anything_and_a_batch_of_padding_costs_nothing():
    models = Models()
    mask = models.weights > 0
    with torch.no_grad():
        expected = models.chunked(LOSSES["rlkd"], mask, 4)
        models.hidden[~mask] = float("nan")
        models.teacher.hidden[~mask] = float("inf")
    value = models.chunked(LOSSES["rlkd"], mask, 4)
    torch.testing.assert_close(value.detach(), expected)
    assert all(torch.isfinite(each).all() for each in torch.autograd.grad(value, models.parameters))
    nothing = models.chunked(LOSSES["rlkd"], torch.zeros_like(mask), 4)
    assert nothing.item() == 0.0
    assert not any(each.any() for each in torch.autograd.grad(nothing, models.parameters))


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_a_frozen_part_gets_no_gradient_and_the_others_theirs(frozen):
    models = Models()
    models.parameters[frozen].requires_grad_(False)
    free = [each for each in models.parameters if each.requires_grad]
    ours, theirs = (
        torch.autograd.grad(each, free)
        for each in (models.chunked(LOSSES["jsd"], None, 7), models.whole(LOSSES["jsd"], None))
    )
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_tied_weight_gets_both_gradients():
    models = Models()
    tokens = torch.randint(VOCABULARY, (POSITIONS,))
    student = Projection(models.weight[tokens] * models.hidden, models.weight)
    ours = chunked_mean(partial(forward_kl, reduction="none"), student, models.teacher, chunk_size=5)
    logits = F.linear(models.weight[tokens] * models.hidden, models.weight)
    theirs = forward_kl(logits, F.linear(*models.teacher[:2]))
    mine, expected = (torch.autograd.grad(each, models.weight)[0] for each in (ours, theirs))
    torch.testing.assert_close(mine, expected)


def test_several_backward_passes_add_up():
    models = Models()
    loss = models.chunked(LOSSES["tvd"], None, 7)
    loss.backward(retain_graph=True)
    once = models.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(models.weight.grad, 2 * once)


def test_without_gradients_none_are_computed():
    models = Models()
    with torch.no_grad():
        value = models.chunked(LOSSES["both"], None, 7)
    assert not value.requires_grad
    torch.testing.assert_close(value, models.whole(LOSSES["both"], None).detach())


class Largest(TorchDispatchMode):
    """Keeps the largest number of elements that a new tensor has."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("name", LOSSES)
def test_no_tensor_is_larger_than_the_hidden_states(name):
    models = Models(torch.float32, (1000,))
    with Largest() as largest:
        models.chunked(LOSSES[name], models.weights, 50).backward()
    assert largest.elements <= models.teacher.hidden.numel() < 1000 * VOCABULARY


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_types_and_sums_in_float32(dtype):
    models = Models(dtype, (600,))
    ours, theirs = models.chunked(LOSSES["forward_kl"], None, 16), models.whole(LOSSES["forward_kl"], None)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
    gradients = [torch.autograd.grad(each, models.parameters) for each in (ours, theirs)]
    for mine, expected, parameter in zip(*gradients, models.parameters, strict=True):
        assert mine.dtype == parameter.dtype
        torch.testing.assert_close(mine, expected, atol=0.02 * expected.abs().max().item(), rtol=0.02)


@pytest.mark.parametrize("weighted", [False, True])
def test_float16_gradients_of_many_positions_do_not_vanish_before_they_are_scaled(weighted):
    """The gradient of a mean over 100,000 positions is near float16's smallest number."""
    models = Models(torch.float16, (100_000,))
    weights = torch.full((100_000,), 1e-4) if weighted else None
    exact = Models(torch.float64, (100_000,))
    for ours, theirs in zip(
        [*exact.parameters, *exact.teacher[:2]], [*models.parameters, *models.teacher[:2]], strict=True
    ):
        ours.data = theirs.detach().double()
    expected = torch.autograd.grad(1e4 * exact.whole(LOSSES["forward_kl"], None), exact.parameters)
    found = torch.autograd.grad(1e4 * models.chunked(LOSSES["forward_kl"], weights, 10_000), models.parameters)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.double() - theirs).norm() < 0.005 * theirs.norm()


def test_under_autocast_the_products_are_in_its_type():
    models = Models(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = models.chunked(LOSSES["forward_kl"], None, 7), models.whole(LOSSES["forward_kl"], None)
    torch.testing.assert_close(ours, theirs)
    assert abs(ours - models.chunked(LOSSES["forward_kl"], None, 7)) > 1e-6
    gradients = [torch.autograd.grad(each, models.parameters) for each in (ours, theirs)]
    for mine, expected in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, expected, atol=0.02 * expected.abs().max().item(), rtol=0.02)


@pytest.mark.slow
def test_a_compiled_caller_gets_the_same():
    models = Models()

    def loss(hidden):
        return 2 * chunked_mean(cross_entropy, Projection(hidden.tanh(), models.weight), models.labels, chunk_size=5)

    ours, theirs = torch.compile(loss, backend="eager")(models.hidden), loss(models.hidden)
    torch.testing.assert_close(ours, theirs)
    mine, expected = (torch.autograd.grad(each, models.hidden)[0] for each in (ours, theirs))
    torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"weights": torch.ones(4)}, r"weights have the shape \(4,\)"),
        ({"labels": torch.zeros(4)}, r"a tensor of the shape \(4,\) stands beside"),
        ({"width": 5}, r"expected \[V, 6\]"),
        ({"loss": lambda s, y: cross_entropy(s, y).mean()}, "expected one value each"),
    ],
)
def test_what_does_not_fit(change, words):
    models = Models()
    student = Projection(models.hidden, models.weight[:, : change.get("width", 6)])
    options = {key: change[key] for key in ("weights", "chunk_size") if key in change}
    with pytest.raises(CoterieError, match=words) as caught:
        chunked_mean(change.get("loss", cross_entropy), student, change.get("labels", models.labels), **options)
    assert "\n" not in str(caught.value)


class Peers:
    """Two students of unlike widths, one with a cap on its logits, two teachers, of one of which the logits are known, and a parameter of the comparison's own."""

    def __init__(self, dtype=torch.float64):
        def draw(*size):
            return torch.randn(*size, dtype=dtype)

        first = draw(POSITIONS, 6), draw(VOCABULARY, 6), draw(VOCABULARY)
        second = draw(POSITIONS, 4), draw(VOCABULARY, 4)
        self.mixing = draw(2)
        self.parameters = [each.requires_grad_() for each in (*first, *second, self.mixing)]
        self.students = [Projection(*first), Projection(*second, None, lambda products: 2 * torch.tanh(products / 2))]
        self.teachers = [Projection(draw(POSITIONS, 9), draw(VOCABULARY, 9)), draw(POSITIONS, VOCABULARY)]
        self.targets = torch.randint(VOCABULARY, (POSITIONS,))
        self.calls = 0

    def compare(self, logits, taught, targets):
        self.calls += 1
        assert (logits.shape[0], taught.shape[0]) == (2, 2)
        mixed = torch.einsum("m,mbv->bv", self.mixing.softmax(0), taught)
        label = sum(F.cross_entropy(each, targets) for each in logits)
        peers = forward_kl(logits[0], logits[1].detach()) + forward_kl(logits[1], logits[0])
        return {"label": label, "peers": 0.5 * peers, "teacher": forward_kl(logits[0], mixed, 2.0)}

    def whole(self):
        logits = [F.linear(*each[:3]) for each in self.students]
        logits[1] = self.students[1].finish(logits[1])
        taught = torch.stack([F.linear(*self.teachers[0][:2]), self.teachers[1]])
        return self.compare(torch.stack(logits), taught, self.targets)

    def chunked(self, size):
        return chunked_terms(
            self.compare, self.students, self.teachers, self.targets, parameters=[self.mixing], chunk_size=size
        )


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("factors", [(1, 1, 1), (3, 3, 3), (1, 0.5, -2), (0, 1, 0)])
def test_terms_and_gradients_are_those_of_all_logits_at_once(size, factors):
    peers = Peers()
    ours, theirs = peers.chunked(size), peers.whole()
    assert list(ours) == list(theirs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
    totals = [sum(f * each for f, each in zip(factors, found.values(), strict=True)) for found in (ours, theirs)]
    for mine, expected in zip(*(torch.autograd.grad(each, peers.parameters) for each in totals), strict=True):
        torch.testing.assert_close(mine, expected)


def test_terms_that_are_left_out_leave_no_gradient():
    peers = Peers()
    ours, theirs = (
        torch.autograd.grad(each["label"], peers.parameters[:5]) for each in (peers.chunked(7), peers.whole())
    )
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, expected)


def added_up(terms):
    """As the training loop does it."""
    return torch.stack(tuple(terms.values())).sum()


@pytest.mark.parametrize("add", [added_up, lambda terms: sum(terms.values())])
def test_the_sum_of_the_terms_is_computed_once(add):
    peers = Peers()
    terms = peers.chunked(7)
    pointers = []
    for each in terms.values():
        each.register_hook(lambda gradient: pointers.append(gradient.data_ptr()))
    add(terms).backward(retain_graph=True)
    assert peers.calls == -(-POSITIONS // 7)
    assert len(set(pointers)) == 1  # by which it is known on a GPU
    once = peers.parameters[1].grad.clone()
    add(terms).backward()  # computed a second time, since the first one's gradients were handed over
    assert peers.calls == 2 * -(-POSITIONS // 7)
    torch.testing.assert_close(peers.parameters[1].grad, 2 * once)


def test_weights_that_changed_before_a_second_backward_pass_are_an_error():
    peers = Peers()
    total = added_up(peers.chunked(7))
    total.backward(retain_graph=True)
    with torch.no_grad():
        peers.parameters[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def test_terms_without_gradients():
    peers = Peers()
    with torch.no_grad():
        found, expected = peers.chunked(5), peers.whole()
    assert not any(each.requires_grad for each in found.values())
    torch.testing.assert_close(found, expected)


def test_positions_of_a_chunk_do_not_depend_on_how_many_there_are_but_for_wide_models():
    def head(width, positions=4096, vocabulary=49152):
        return Projection(torch.empty(positions, width, device="meta"), torch.empty(vocabulary, width, device="meta"))

    assert chunk_positions([head(576)]) == chunk_positions([head(576, 512)]) == 2**23 // 49152
    assert chunk_positions([head(576)] * 2) == 2**23 // (2 * 49152)
    assert chunk_positions([head(4096)]) == 4096 * 4096 // 49152
    assert chunk_positions([head(576, vocabulary=2**24)]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"students": []}, "no student"),
        ({"targets": torch.zeros(4)}, r"a tensor of the shape \(4,\) stands beside"),
        ({"teachers": [torch.zeros(4, VOCABULARY)]}, "stands beside"),
        ({"chunk_size": -1}, "chunk_size=-1"),
        ({"compare": lambda z, t, y: {"label": z.sum(-1)}}, r"the term 'label' has the shape \(1, 23\)"),
    ],
)
def test_terms_that_do_not_fit(change, words):
    peers = Peers()
    given = {"compare": peers.compare, "students": peers.students[:1], "teachers": [], "targets": peers.targets}
    with pytest.raises(CoterieError, match=words) as caught:
        chunked_terms(**given | change)
    assert "\n" not in str(caught.value)
