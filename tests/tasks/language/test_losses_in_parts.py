"""Terms and figures of logits that are computed in parts are those of all logits at once, and the logits of a whole batch never exist."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.losses import LabelLoss, chunked
from coterie.methods import create_method
from coterie.methods.progress import Progress
from coterie.methods.teacher.guide import Guide
from coterie.networks.teacher import Teacher, Teachers
from coterie.tasks.language import causal_lm, evaluation
from coterie.tasks.language.causal_lm import CausalLM, LanguageGroup, example_batch
from coterie.tasks.language.data.rows import label_positions, label_targets
from coterie.tasks.language.logits import Finish
from coterie.tasks.language.lora import add_lora, save_memory
from coterie.tasks.language.networks import load_causal_lm
from coterie.tasks.language.students import whole_note

VOCABULARY = 60
WIDTH = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FORMS = {
    "llama": ({}, Finish()),
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}, Finish()),
    "gptj": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16, "rotary_dim": 4}, Finish()),
    "gemma2": ({"num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 20.0}, Finish(cap=20.0)),
    "granite": ({"logits_scaling": 4.0}, Finish(divisor=4.0)),
    "cohere": ({"logit_scale": 0.1, "pad_token_id": 0}, Finish(factor=0.1)),
}


def network_of(kind="llama", seed=0, **changes):
    sizes = FORMS[kind][0] if kind.startswith("gpt") else {**WIDTH, **FORMS[kind][0]}
    network = load_causal_lm({"model_type": kind, "vocab_size": VOCABULARY, **sizes, **changes}, seed=seed).eval()
    with torch.no_grad():  # logits that differ
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    return network


def batch_of(rows=3, length=9, ignored=4):
    tokens = torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :ignored] = -100
    places = label_positions(labels).flatten().nonzero().squeeze(1)
    return {"input_ids": tokens, "positions": places}, label_targets(labels)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    for module in (chunked, evaluation):
        monkeypatch.setattr(module, "chunk_positions", lambda students: 5)


@pytest.fixture
def no_whole_logits(monkeypatch):
    """A network that is asked for all logits is an error from here on."""

    def forbid():
        monkeypatch.setattr(CausalLM, "forward", lambda *_: pytest.fail("the logits of the whole batch were computed"))

    return forbid


@pytest.mark.parametrize("kind", FORMS)
def test_what_an_architecture_does_to_its_logits_is_found(kind):
    student = CausalLM(network_of(kind), vocabulary=VOCABULARY - 3).eval()
    batch, _ = batch_of()
    expected = Finish(**{**vars(FORMS[kind][1]), "vocabulary": VOCABULARY - 3})
    assert student.finish == expected
    hidden = student.hidden(batch)
    assert hidden.shape == (len(batch["positions"]), 16)
    head = student.projected(hidden)
    logits = head.finish(nn.functional.linear(head.hidden, head.weight, head.bias))
    torch.testing.assert_close(logits, student(batch)[0])
    assert not student.network.get_output_embeddings()._forward_pre_hooks[student._hook.id].without_logits


def test_a_cap_is_found_where_the_logits_are_small():
    """Of untrained weights logits are near 0, where a hyperbolic tangent is nearly none."""
    network = network_of("gemma2", final_logit_softcapping=30.0)
    with torch.no_grad():
        network.lm_head.weight.mul_(1e-3)
    assert CausalLM(network).finish == Finish(cap=30.0)


class Shifted(nn.Linear):
    def forward(self, hidden):
        return super().forward(hidden) + 1.0


def shifted(network):
    """A network whose logits are no known function of its output embedding's weight."""
    head = Shifted(16, VOCABULARY, bias=False)
    head.load_state_dict(network.lm_head.state_dict())
    network.set_output_embeddings(head)
    return network


def wavy(module, inputs, output):
    """What no configuration says of."""
    output.logits = output.logits.sin()
    return output


@pytest.mark.parametrize("change", ["head", "after"])
def test_what_is_not_known_is_computed_whole(change):
    network = network_of()
    if change == "head":
        network = shifted(network)
    else:
        network.register_forward_hook(wavy)
    student = CausalLM(network)
    assert student.finish is None
    group = LanguageGroup([student])
    group.whole_logits = 0
    batch, targets = batch_of()
    assert not group.is_in_parts(batch)
    expected = LabelLoss()(network(batch["input_ids"]).logits.flatten(0, 1)[batch["positions"]], targets)
    torch.testing.assert_close(create_method("baseline", group)(batch, targets)["label"], expected)
    assert whole_note(group, None).startswith("the logits of student 0 cannot be computed in parts")
    assert whole_note(LanguageGroup([CausalLM(network_of())]), None) is None


def taught_by(count, **changes):
    teachers = [CausalLM(network_of("gpt2" if number else "gemma2", 5 + number)) for number in range(count)]
    return Teachers([Teacher(each, example_batch(), name=f"t{n}", in_parts=True) for n, each in enumerate(teachers)])


VARIANTS = [
    ("baseline", 1, 0, {}),
    ("independent", 2, 0, {}),
    ("independent", 2, 1, {}),
    ("dml", 2, 0, {}),
    ("dml", 3, 1, {"target": "mean", "temperature": 2.0, "ramp_up": 0.5}),
    ("dml", 2, 0, {"target": "mean_logit", "detach_target": False}),
    ("cl_ilr", 2, 0, {}),
    ("kdcl", 2, 0, {}),
    ("kdcl", 2, 2, {"target": "linear"}),
    ("kdcl", 2, 0, {"target": "naive"}),
    ("kd", 1, 1, {}),
    ("kd", 1, 2, {"divergence": "jsd"}),
    ("kd", 1, 2, {"combination": "learned"}),
    ("kd", 1, 2, {"combination": "mean_logit", "divergence": "reverse_kl"}),
    ("kd", 1, 1, {"divergence": "adaptive_kl", "temperature": 1.0}),
    ("dkd", 1, 1, {}),
    ("rlkd", 1, 1, {"label_weight": 1.0}),
    ("rlkd", 1, 2, {"dynamic_weight": True, "divergence": "tvd"}),
    ("rlkd", 1, 1, {"divergence": "none", "measure": "pearson"}),
]


def made(name, students, teachers, options, **built):
    networks = [network_of("llama" if number < 2 else "cohere", number) for number in range(students)]
    group = LanguageGroup([CausalLM(each) for each in networks])
    if name in {"kd", "dkd", "rlkd", "dist"}:
        options = {**options, "teachers": taught_by(teachers)}
    method = create_method(name, group, **options, **built)
    if teachers and "teachers" not in options:
        method.join(Guide(taught_by(teachers), weight=0.5))
    return method.train()


def compared(method, batch, targets, parts, progress=None, forbid=lambda: None):
    """Terms and gradients, with the logits in parts or whole."""
    method = copy.deepcopy(method)
    method.group.whole_logits = 0 if parts else float("inf")
    if parts:
        forbid()
    terms = method(batch, targets, progress)
    torch.stack(tuple(terms.values())).sum().backward()
    gradients = {name: each.grad for name, each in method.named_parameters() if each.requires_grad}
    return {name: value.detach() for name, value in terms.items()}, gradients


def require_equal(method, batch, targets, progress=None, forbid=lambda: None, **tolerance):
    whole = compared(method, batch, targets, False, progress)
    parts = compared(method, batch, targets, True, progress, forbid)
    assert list(parts[0]) == list(whole[0])
    torch.testing.assert_close(parts, whole, **tolerance)


@pytest.mark.parametrize(("name", "students", "teachers", "options"), VARIANTS)
def test_terms_and_gradients_are_those_of_all_logits(name, students, teachers, options, no_whole_logits):
    method = made(name, students, teachers, options)
    assert method.compares_logits()
    progress = Progress(1, 10, 10, 100)
    require_equal(method, *batch_of(), progress, no_whole_logits, atol=2e-6, rtol=2e-5)


def test_label_smoothing_is_a_mean_too(no_whole_logits):
    method = made("kd", 1, 1, {}, label_loss=LabelLoss(label_smoothing=0.1))
    require_equal(method, *batch_of(), forbid=no_whole_logits, atol=2e-6, rtol=2e-5)


def test_a_label_loss_that_is_no_mean_is_computed_whole():
    method = made("baseline", 1, 0, {}, label_loss=LabelLoss(class_weights=torch.rand(VOCABULARY)))
    require_equal(method, *batch_of(), atol=0, rtol=0)


def test_a_method_that_compares_positions_is_computed_whole():
    method = made("dist", 1, 1, {})
    assert not method.compares_logits()
    require_equal(method, *batch_of(), atol=0, rtol=0)


def test_a_teacher_whose_form_is_not_known_says_its_logits_whole():
    teacher = Teacher(CausalLM(shifted(network_of(seed=7))), example_batch(), name="odd", in_parts=True)
    group = LanguageGroup([CausalLM(network_of())])
    method = create_method("kd", group, teachers=Teachers([teacher]))
    require_equal(method, *batch_of(), atol=2e-6, rtol=2e-5)
    assert "the teacher odd" in whole_note(group, method.teachers)


def test_few_logits_are_computed_whole(monkeypatch):
    monkeypatch.setattr(causal_lm, "chunked_terms", lambda *_, **__: pytest.fail("computed in parts"))
    method = made("kd", 1, 1, {})
    batch, targets = batch_of()
    method.group.whole_logits = 2 * len(targets) * VOCABULARY
    method(batch, targets)
    method.group.whole_logits -= 1
    with pytest.raises(pytest.fail.Exception, match="computed in parts"):
        method(batch, targets)


@pytest.mark.parametrize("change", ["lora", "gradient_checkpointing", "checkpoint_branches", "tied", "vocabulary"])
def test_other_ways_to_train(change):
    network = network_of(tie_word_embeddings=change == "tied")
    if change == "lora":
        network = add_lora(network, rank=2)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter)
    if change == "gradient_checkpointing":
        save_memory(network)
    group = LanguageGroup([CausalLM(network, VOCABULARY - 4 if change == "vocabulary" else None)])
    group.checkpoint_branches = change == "checkpoint_branches"
    assert group.branches[0].finish is not None
    batch, targets = batch_of()
    require_equal(
        create_method("baseline", group).train(), batch, targets.clamp(max=VOCABULARY - 5), atol=2e-6, rtol=2e-5
    )


def test_a_frozen_output_embedding_and_a_frozen_network():
    method = made("kd", 1, 1, {})
    student = method.group.branches[0].network
    student.lm_head.requires_grad_(False)
    require_equal(method, *batch_of(), atol=2e-6, rtol=2e-5)
    student.requires_grad_(False)
    student.lm_head.requires_grad_(True)
    require_equal(method, *batch_of(), atol=2e-6, rtol=2e-5)


def test_under_autocast():
    method = made("dml", 2, 1, {})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        require_equal(method, *batch_of(), atol=3e-2, rtol=3e-2)


def test_half_precision_weights():
    group = LanguageGroup([CausalLM(network_of().to(torch.bfloat16))])
    assert group.branches[0].finish == Finish()
    assert not group.branches[0].slices
    require_equal(create_method("baseline", group).train(), *batch_of(), atol=3e-2, rtol=3e-2)


@pytest.mark.slow
def test_a_compiled_step_gets_the_same():
    method = made("kd", 1, 1, {})
    method.group.whole_logits = 0
    batch, targets = batch_of()
    compiled = torch.compile(method, backend="eager")(batch, targets)
    torch.testing.assert_close(compiled, method(batch, targets))


class Largest(TorchDispatchMode):
    """The most elements of a new tensor."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize(("name", "students", "teachers"), [("dml", 2, 0), ("rlkd", 1, 1)])
def test_no_tensor_is_as_large_as_the_logits(name, students, teachers):
    group = LanguageGroup([CausalLM(network_of(seed=n, vocab_size=2000)) for n in range(students)])
    options = {}
    if teachers:
        teacher = CausalLM(network_of(seed=9, vocab_size=2000))
        options["teachers"] = Teachers([Teacher(teacher, example_batch(), name="t", in_parts=True)])
    method = create_method(name, group, **options).train()
    batch, targets = batch_of(rows=8, length=16)
    logits = len(targets) * 2000
    for parts in (True, False):
        group.whole_logits = 0 if parts else float("inf")
        with Largest() as largest:
            sum(method(batch, targets).values()).backward()
        assert (largest.elements < logits / 2) == parts


@pytest.mark.parametrize(("name", "students", "teachers"), [("dml", 2, 0), ("kdcl", 2, 0), ("kd", 1, 2)])
def test_figures_are_those_of_all_logits(name, students, teachers, no_whole_logits):
    from accelerate import Accelerator

    from coterie.data.batch import Batch

    method = made(name, students, teachers, {}).eval()
    batch, targets = batch_of(rows=4, length=12)
    loader = [Batch(batch, targets, torch.arange(4))]
    accelerator = Accelerator(cpu=True)
    found = []
    for parts in (False, True):
        method.group.whole_logits = 0 if parts else float("inf")
        if parts:
            no_whole_logits()
        found.append(evaluation.measure(method, method.teachers, loader, accelerator, 12))
    whole, parts = found
    flat = [
        [each.figures["deployed"], *each.figures["students"], *(figures for figures, _ in each.teachers)]
        + ([each.figures["ensemble"]["method"]] if students > 1 else [])
        for each in (whole, parts)
    ]
    assert len(flat[0]) == 1 + students + teachers + (students > 1)
    for mine, expected in zip(*flat, strict=True):
        assert mine == pytest.approx(expected, rel=1e-5)
    assert parts.curves[0]["nll_by_position"] == pytest.approx(
        whole.curves[0]["nll_by_position"], rel=1e-5, nan_ok=True
    )


def test_a_method_with_a_prediction_of_its_own_is_measured_whole():
    """Its ensemble reads more than logits."""
    from accelerate import Accelerator

    from coterie.data.batch import Batch

    method = made("okddip", 3, 0, {}).eval()
    method.group.whole_logits = 0
    batch, targets = batch_of()
    loader = [Batch(batch, targets, torch.arange(3))]
    found = evaluation.measure(method, None, loader, Accelerator(cpu=True), 9)
    logits = method.predict(batch).logits
    expected = nn.functional.cross_entropy(logits[0], targets).item()
    assert found.figures["students"][0]["nll"] == pytest.approx(expected, rel=1e-5)
