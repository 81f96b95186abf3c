"""RLKD's ranking loss: the soft rank against the pooling algorithm and finite differences, and what must hold of the loss."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coterie.errors import CoterieError
from coterie.losses import forward_kl, ranking_distillation, ranking_loss, reverse_kl, soft_rank, top_union
from coterie.losses.ranking import correlation


def pooled_blocks(values):
    """Falling isotonic regression by pool adjacent violators: blocks of (sum, count)."""
    blocks = []
    for value in values:
        blocks.append([float(value), 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] <= blocks[-1][0] / blocks[-1][1]:
            total, count = blocks.pop()
            blocks[-1][0] += total
            blocks[-1][1] += count
    return blocks


def slow_soft_rank(row, strength):
    """Ranks and their Jacobian [n, n]: (I - averaging over a block) / strength."""
    order = np.argsort(-np.asarray(row), kind="stable")
    n = len(row)
    falling = np.asarray(row)[order] / strength
    blocks = pooled_blocks(falling - np.arange(n, 0, -1))
    fitted = np.concatenate([np.full(count, total / count) for total, count in blocks])
    averaging = np.zeros((n, n))
    start = 0
    for _, count in blocks:
        averaging[start : start + count, start : start + count] = 1 / count
        start += count
    ranks, jacobian = np.zeros(n), np.zeros((n, n))
    ranks[order] = falling - fitted
    jacobian[np.ix_(order, order)] = (np.eye(n) - averaging) / strength
    return ranks, jacobian


@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0, 20.0])
@pytest.mark.parametrize("size", [1, 2, 7, 30])
def test_soft_rank_and_its_jacobian_are_those_of_the_pooling_algorithm(size, strength):
    for row in 3 * torch.randn(10, size, dtype=torch.float64):
        ranks, jacobian = slow_soft_rank(row.numpy(), strength)
        np.testing.assert_allclose(soft_rank(row, strength).numpy(), ranks, atol=1e-10)
        found = torch.autograd.functional.jacobian(lambda each: soft_rank(each, strength), row)
        np.testing.assert_allclose(found.numpy(), jacobian, atol=1e-10)


@pytest.mark.slow
def test_soft_rank_by_finite_differences():
    values = torch.randn(20, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: soft_rank(each, 0.7), values)
    counted = torch.rand(20, 9) > 0.3
    assert torch.autograd.gradcheck(lambda each: soft_rank(each, 0.7, counted), values)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=9), st.sampled_from([0.5, 1.0, 3.0]))
def test_soft_rank_of_ties(row, strength):
    ranks, _ = slow_soft_rank(np.array(row, dtype=float), strength)
    np.testing.assert_allclose(soft_rank(torch.tensor(row, dtype=torch.float64), strength).numpy(), ranks, atol=1e-10)
    assert ranks.sum() == pytest.approx(len(row) * (len(row) + 1) / 2)


@pytest.mark.skipif(
    importlib.util.find_spec("torchsort") is None, reason="torchsort is compiled for one version of torch"
)
@pytest.mark.parametrize("strength", [0.1, 1.0, 5.0])
def test_soft_rank_is_torchsorts(strength):
    import torchsort

    values = (3 * torch.randn(50, 20, dtype=torch.float64)).requires_grad_()
    ours, theirs = soft_rank(values, strength), torchsort.soft_rank(values, regularization_strength=strength)
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(each, values, direction)[0] for each in (ours, theirs)))


def test_soft_rank_leaves_out_what_is_not_counted():
    values = torch.randn(30, 12, dtype=torch.float64)
    counted = torch.rand(30, 12) > 0.4
    ranks = soft_rank(values, 1.0, counted)
    for row, mask, rank in zip(values, counted, ranks, strict=True):
        torch.testing.assert_close(rank[mask], soft_rank(row[mask]))
        assert not rank[~mask].any()


def test_a_small_strength_gives_exact_ranks_and_a_large_one_the_values():
    values = torch.randn(8, 10)
    exact = values.argsort(-1).argsort(-1) + 1.0
    torch.testing.assert_close(soft_rank(values, 1e-6), exact, atol=1e-4, rtol=0)
    soft = soft_rank(values, 1e3)
    torch.testing.assert_close(soft - soft.mean(-1, keepdim=True), (values - values.mean(-1, keepdim=True)) / 1e3, atol=2e-6, rtol=0)  # fmt: skip


def test_float32_suffices_for_huge_values():
    values = torch.tensor([3e38, -3e38, 1e30, 0.0, 0.5], requires_grad=True)
    ranks = soft_rank(values)
    torch.testing.assert_close(ranks.detach(), torch.tensor([5.0, 1.0, 4.0, 2.25, 2.75]))
    ranks.square().sum().backward()
    assert torch.isfinite(values.grad).all()


def unions(logits, teacher_logits, k):
    for s, t in zip(logits, teacher_logits, strict=True):
        yield sorted(set(s.topk(k).indices.tolist()) | set(t.topk(k).indices.tolist()))


@pytest.mark.parametrize("measure", ["spearman", "pearson"])
def test_each_position_equals_the_slow_loss_on_the_set(measure):
    student, teacher = 2 * torch.randn(2, 12, 40, dtype=torch.float64)
    found = ranking_loss(student, teacher, k=6, measure=measure)
    for s, t, union, value in zip(student, teacher, unions(student, teacher, 6), found.tolist(), strict=True):
        first, second = s[union].numpy(), t[union].numpy()
        if measure == "spearman":
            first, second = slow_soft_rank(first, 1.0)[0], slow_soft_rank(second, 1.0)[0]
        assert value == pytest.approx(1 - np.corrcoef(first, second)[0, 1], abs=1e-9)


def test_with_duplicates_it_is_the_published_code():
    """Both index lists one after the other, ranks of all 2k entries, centred, scaled to norm 1, multiplied."""
    student, teacher = 2 * torch.randn(2, 12, 40, dtype=torch.float64)
    found = ranking_loss(student, teacher, k=6, deduplicate=False)
    for s, t, value in zip(student, teacher, found.tolist(), strict=True):
        both = [*t.topk(6).indices.tolist(), *s.topk(6).indices.tolist()]
        ranks = [slow_soft_rank(each[both].numpy(), 1.0)[0] for each in (s, t)]
        first, second = ((each - each.mean()) / np.linalg.norm(each - each.mean()) for each in ranks)
        assert value == pytest.approx(1 - first @ second, abs=1e-9)


def test_duplicates_raise_the_correlation_from_045_to_052():
    """The figures of the comparison in the docstring: 200 tokens, logits of deviation 3, noise of deviation 1, k = 5."""
    teacher = 3 * torch.randn(20000, 200)
    student = teacher + torch.randn(20000, 200)
    assert 1 - ranking_loss(student, teacher, 5).mean().item() == pytest.approx(0.454, abs=0.01)
    assert 1 - ranking_loss(student, teacher, 5, deduplicate=False).mean().item() == pytest.approx(0.519, abs=0.01)
    assert top_union(student, teacher, 5).counted.sum(-1).float().mean().item() == pytest.approx(6.6, abs=0.05)


@pytest.mark.parametrize("deduplicate", [True, False])
@pytest.mark.parametrize("measure", ["spearman", "pearson"])
def test_identities(deduplicate, measure):
    teacher, student = 3 * torch.randn(2, 50, 30, dtype=torch.float64)

    def loss(s, t, k=10):
        return ranking_loss(s, t, k, deduplicate=deduplicate, measure=measure)

    torch.testing.assert_close(loss(teacher, teacher), torch.zeros(50, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(loss(-teacher, teacher), torch.full((50,), 2.0, dtype=torch.float64))
    shift = torch.randn(50, 1, dtype=torch.float64)
    torch.testing.assert_close(loss(student + 7 * shift, teacher - shift), loss(student, teacher))
    assert ((loss(student, teacher) >= 0) & (loss(student, teacher) <= 2)).all()


@pytest.mark.parametrize("deduplicate", [True, False])
def test_the_gradient_is_on_the_union_alone_and_the_teacher_is_a_constant(deduplicate):
    student, teacher = torch.randn(2, 20, 30)
    student.requires_grad_(), teacher.requires_grad_()
    ranking_loss(student, teacher, 4, deduplicate=deduplicate).sum().backward()
    assert teacher.grad is None
    for union, gradient in zip(unions(student, teacher, 4), student.grad, strict=True):
        others = [v for v in range(30) if v not in union]
        assert not gradient[others].any()
        assert gradient[union].any()


@pytest.mark.parametrize("measure", ["spearman", "pearson"])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_gradient_by_finite_differences(measure, deduplicate):
    student, teacher = torch.randn(2, 6, 15, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: ranking_loss(s, teacher, 4, 0.8, deduplicate, measure), student, eps=1e-7, atol=1e-5
    )


def test_a_step_along_the_gradient_mends_the_order():
    teacher = torch.randn(64, 100)
    student = (teacher + 0.5 * torch.randn(64, 100)).requires_grad_()
    optimizer = torch.optim.SGD([student], lr=20.0)
    begun = ranking_loss(student, teacher, 5).mean().item()
    for _ in range(50):
        optimizer.zero_grad()
        ranking_loss(student, teacher, 5).mean().backward()
        optimizer.step()
    assert ranking_loss(student, teacher, 5).mean().item() < 0.2 * begun


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_the_papers_sum_and_its_dynamic_weight(divergence):
    student, teacher = torch.randn(2, 12, 30)
    each = {"forward_kl": forward_kl, "reverse_kl": reverse_kl}[divergence](student, teacher, 2.0, reduction="none")
    ranks = ranking_loss(student, teacher, 4)
    value = ranking_distillation(student, teacher, k=4, divergence=divergence, temperature=2.0)
    torch.testing.assert_close(value, (2 * ranks + each).mean())
    pairs = zip(student, teacher, strict=True)
    shared = [len(set(s.topk(4).indices.tolist()) & set(t.topk(4).indices.tolist())) / 4 for s, t in pairs]
    value = ranking_distillation(student, teacher, k=4, divergence=divergence, temperature=2.0, dynamic_weight=True)
    torch.testing.assert_close(value, (2 * ranks + torch.tensor(shared) * each).mean())
    alone = ranking_distillation(student, teacher, k=4, divergence=None, ranking_weight=0.5, reduction="none")
    torch.testing.assert_close(alone, 0.5 * ranks)


def test_padding_is_ignored():
    student, teacher = torch.randn(2, 3, 5, 30)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[0, 3:], mask[2, 1:] = False, False
    expected = ranking_distillation(student[mask], teacher[mask], k=4)
    padded = student.clone()
    padded[~mask] = 1e4
    torch.testing.assert_close(ranking_distillation(padded, teacher, mask, k=4), expected)
    padded.requires_grad_()
    ranking_distillation(padded, teacher, mask, k=4).backward()
    assert not padded.grad[~mask].any()
    assert padded.grad[mask].any(-1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    student, teacher = (3 * torch.randn(2, 12, 60)).to(dtype)
    value = ranking_distillation(student.requires_grad_(), teacher)
    assert value.dtype == torch.float32
    value.backward()
    assert torch.isfinite(student.grad).all()
    # Ties, which rounding makes, may fall to other tokens at the k-th place; they do not here.
    wide = ranking_distillation(student.detach().float(), teacher.float())
    torch.testing.assert_close(value.detach(), wide, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("measure", ["spearman", "pearson"])
def test_constant_logits_give_no_nan(measure):
    for student, teacher in [(torch.zeros(3, 9), torch.randn(3, 9)), (torch.randn(3, 9), torch.full((3, 9), 7.3))]:
        student.requires_grad_()
        loss = ranking_loss(student, teacher, 4, measure=measure)
        loss.sum().backward()
        torch.testing.assert_close(loss.detach(), torch.ones(3))
        assert not student.grad.any()
    nearly = (torch.full((3, 9), 20.0) + 1e-5 * torch.randn(3, 9)).requires_grad_()
    ranking_loss(nearly, torch.randn(3, 9), 4, measure=measure).sum().backward()
    assert nearly.grad.abs().max() < 1e5


def test_correlation_of_counted_entries():
    first, second = torch.randn(2, 5, 8, dtype=torch.float64)
    counted = torch.rand(5, 8) > 0.3
    for a, b, mask, value in zip(first, second, counted, correlation(first, second, counted), strict=True):
        assert value.item() == pytest.approx(np.corrcoef(a[mask], b[mask])[0, 1])


@pytest.mark.slow
def test_all_of_it_compiles_as_one_graph():
    student, teacher = torch.randn(2, 6, 30)
    compiled = torch.compile(ranking_distillation, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(student, teacher), ranking_distillation(student, teacher))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 31}, "k=31: expected 2 to the size of the vocabulary, which is 30"),
        ({"k": 1}, "k=1"),
        ({"strength": 0.0}, "strength=0.0"),
        ({"measure": "spearmann"}, "'spearman' or 'pearson'"),
        ({"divergence": "foward_kl"}, "did you mean 'forward_kl'"),
        ({"mask": torch.ones(3)}, r"weights have the shape \(3,\)"),
        ({"teacher_logits": torch.zeros(2, 29)}, "one vocabulary"),
    ],
)
def test_arguments_that_do_not_fit(options, words):
    with pytest.raises(CoterieError, match=words) as caught:
        ranking_distillation(torch.zeros(2, 30), **{"teacher_logits": torch.zeros(2, 30), **options})
    assert "\n" not in str(caught.value)
