"""EmbedDistill in the trainer of sentence-transformers: the same terms as the method's, and a training that learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.errors import CoterieError
from coterie.losses.dual_encoder import EmbedDistillLoss
from coterie.methods.retrieval.embed_distill import EmbedDistill

B, D = 6, 5


class Model(nn.Module):
    """As much of a SentenceTransformer as a loss sees."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, D)

    def forward(self, features):
        return {"sentence_embedding": F.normalize(self.linear(features["input_ids"]), dim=-1)}


class Tower(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        return self.model({"input_ids": inputs})["sentence_embedding"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_module_is_the_methods_sum(symmetric):
    model = Model()
    queries, documents = torch.randn(B, 4), torch.randn(B, 4)
    labels = F.normalize(torch.randn(B, 2, D), dim=-1).requires_grad_()
    weights = {"onehot": 0.5, "score": 2.0, "embedding": 3.0, "temperature": 0.1}
    columns = [{"input_ids": queries}, {"input_ids": documents}][: 1 + symmetric]
    found = EmbedDistillLoss(model, **weights)(columns, labels)
    inputs = {
        "query": queries,
        "teacher_query": labels[:, 0].detach(),
        "teacher_document": labels[:, 1].detach(),
        "excluded": torch.zeros(B, B, dtype=torch.bool),
    } | ({"document": documents} if symmetric else {})
    expected = sum(EmbedDistill(Tower(model), **weights)(inputs, torch.arange(B)).values())
    torch.testing.assert_close(found, expected)
    found.backward()
    assert labels.grad is None  # the teacher is a constant
    assert model.linear.weight.grad.abs().sum() > 0


def test_other_columns_and_labels_are_refused():
    loss, column = EmbedDistillLoss(Model()), {"input_ids": torch.randn(B, 4)}
    with pytest.raises(CoterieError, match="3 columns: expected query, or query and document"):
        loss([column] * 3, torch.randn(B, 2, D))
    with pytest.raises(CoterieError, match=r"labels \[6, 5\]: expected the teacher's vectors"):
        loss([column], torch.randn(B, D))


@pytest.mark.slow
def test_the_trainer_of_sentence_transformers_takes_it(tmp_path):
    datasets = pytest.importorskip("datasets")
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from transformers import BertConfig

    from coterie.tasks.retrieval.encoders import build_encoder, projected
    from coterie.tasks.retrieval.tokenizers import train_tokenizer

    texts = [f"the {a} and the {b}" for a in ("cat", "dog", "cow", "hen") for b in ("hat", "bag", "cup", "pen")]
    tokenizer = train_tokenizer(texts, 100)
    sizes = {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
    teacher, student = (
        build_encoder(
            BertConfig(vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=1, **sizes),
            tokenizer,
            seed=width,
        )
        for width in (32, 16)
    )
    teacher, student = projected(teacher, None, True, 0), projected(student, 32, True, 0)
    vectors = teacher.encode(texts)
    rows = datasets.Dataset.from_dict({"query": texts, "label": [[each.tolist()] * 2 for each in vectors]})
    before = (student.encode(texts) * vectors).sum(1).mean()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=15, per_device_train_batch_size=8, learning_rate=1e-2, report_to="none", use_cpu=True, save_strategy="no", disable_tqdm=True
    )  # fmt: skip
    SentenceTransformerTrainer(
        model=student, args=arguments, train_dataset=rows, loss=EmbedDistillLoss(student)
    ).train()
    assert (student.encode(texts) * vectors).sum(1).mean() > before + 0.3
