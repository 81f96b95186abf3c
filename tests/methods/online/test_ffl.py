from __future__ import annotations

import pytest
import torch

from coterie.methods.online.ffl import FFL


def test_losses_against_a_slow_reference(make_group, batch, slow, said):
    method = FFL(make_group(3)).eval()
    with torch.no_grad():
        fused, _ = method.fusion(method.group(batch[0]).feature_maps)
    fused, z, targets = fused.double().numpy(), said(method), batch[1].tolist()
    losses = method(*batch)
    expected = sum(slow.divergence(fused, z[i], 3.0) for i in range(3)) + slow.divergence(z.mean(0), fused, 3.0)
    assert losses["label"].item() == pytest.approx(slow.labels(z, targets), rel=1e-5)
    assert losses["ensemble_label"].item() == pytest.approx(slow.cross_entropy(fused, targets), rel=1e-4)
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-3)
    torch.testing.assert_close(
        method.predict(batch[0]).ensemble.double(), torch.from_numpy(fused), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("detach", [False, True])
def test_whether_the_fusions_loss_reaches_the_students(make_group, batch, reaches, detach):
    method = FFL(make_group(2), detach_features=detach)
    losses = method(*batch)
    assert reaches(method, losses["ensemble_label"], "fusion")
    assert reaches(method, losses["ensemble_label"], "group") is not detach
    assert reaches(method, losses["distillation"], "fusion")  # it learns from the students' mean


def test_the_fusion_has_a_weight_decay_of_its_own(make_group):
    groups = FFL(make_group(2)).parameter_groups()
    assert "weight_decay" not in groups[0]
    assert groups[1]["weight_decay"] == 1e-5


def test_students_and_the_fused_classifier_are_constants_for_one_another(make_group, batch, slow, logit_gradient):
    method = FFL(make_group(2), detach_features=True).eval()
    output = method.group(batch[0])
    fused, _ = method.fusion([each.detach() for each in output.feature_maps])
    q = (fused.detach() / 3).softmax(-1)
    z, found = logit_gradient(method, *batch, "distillation")
    expected = 3 * ((z / 3).softmax(-1) - q) / len(batch[1])
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
    # The fused classifier learns from the students' mean alone: the gradient of its bias is T (p_f - p_m), mean over the batch.
    method(*batch)["distillation"].backward()
    mean = (output.logits.detach().mean(0) / 3).softmax(-1)
    torch.testing.assert_close(method.fusion.classifier.bias.grad, 3 * (q - mean).mean(0), atol=1e-6, rtol=1e-4)
