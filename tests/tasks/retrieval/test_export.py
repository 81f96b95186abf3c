"""Folders that sentence-transformers loads give the run's vectors, and so does the graph of the query tower."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import coterie
from coterie.errors import CoterieError
from coterie.files import write_json, write_text
from coterie.networks.hugging_face import config_of
from coterie.recipe import load_recipe
from coterie.run_folder import RunFolder
from coterie.student import save_student
from coterie.tasks.retrieval.declared import FIGURES
from coterie.tasks.retrieval.encoders import (
    build_encoder,
    cut_encoder,
    describe_encoder,
    encoder_digest,
    load_encoder,
    projected,
    rebuild_encoder,
    require_plain,
    width_of,
)
from coterie.tasks.retrieval.tokenizers import save_tokenizer

TEXTS = ["how to join a parser with the queue", "a window", "The queue takes every parser in turn."]


@pytest.fixture
def run(place, tiny_encoder, tmp_path):
    """Writes a run as a training leaves it, ``run(documents)``."""

    def write(documents):
        folder = RunFolder(tmp_path / documents)
        folder.path.mkdir()
        encoder = projected(tiny_encoder(5, hidden_size=16, num_hidden_layers=1), 32, True, 0)
        encoder.prompts = {"query": "how to ", "document": ""}
        recipe = load_recipe(place.settings(network={"documents": documents}))
        write_text(folder.recipe, recipe.to_yaml())
        teacher = load_encoder(str(place.path / "teacher"))
        note = {
            "network": "teacher",
            "digest": encoder_digest(teacher),
            "width": 32,
            "normalized": True,
            "parameters": 1,
        }
        figures = {each.key: 0.5 for each in FIGURES}
        description = {
            "task": "retrieval",
            "network": "tiny",
            "encoder": describe_encoder(encoder),
            "documents": documents,
            "class_names": [],
            "method": "embed_distill",
            "data": "pairs",
            "student": 0,
            "teachers": [note],
            "figures": figures,
        }
        save_tokenizer(encoder.tokenizer, folder.tokenizer)
        save_student(folder, encoder, description)
        write_json(folder.environment, {"versions": {}, "command": []})
        write_json(
            folder.summary,
            {
                "task": "retrieval",
                "status": "finished",
                "seed": 0,
                "epochs": 3,
                "split": "test",
                "num_train": 60,
                "num_test": 18,
                "students": [figures],
                "mean_student": figures,
                "teachers": [{**note, **figures}],
                "bm25": figures,
                "seconds": {"training": 1.0},
            },
        )
        return folder, encoder, teacher

    return write


def test_a_folder_of_the_student_gives_its_vectors_prompts_included(run):
    folder, encoder, _ = run("teacher")
    target = coterie.export_run(folder.path)
    loaded = SentenceTransformer(str(target), device="cpu")
    np.testing.assert_allclose(loaded.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-6)
    assert np.abs(loaded.encode_query(TEXTS) - loaded.encode_document(TEXTS)).max() > 1e-3  # the prompt is there
    assert not (target / "student.json").exists()
    card = (target / "README.md").read_text()
    assert "**It encodes queries alone.**" in card
    assert "| BM25 | 0.5000 | 0.5000 | 0.5000 |" in card
    assert "pipeline_tag: sentence-similarity" in card
    student = coterie.load_student(folder.path)
    np.testing.assert_allclose(student.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-6)


def test_a_router_holds_the_teachers_tower_for_documents(run):
    folder, encoder, teacher = run("teacher")
    target = coterie.export_run(folder.path, "router")
    loaded = SentenceTransformer(str(target), device="cpu")
    np.testing.assert_allclose(loaded.encode_query(TEXTS), encoder.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(loaded.encode_document(TEXTS), teacher.encode_document(TEXTS), atol=1e-6)
    assert "**It encodes queries alone.**" not in (target / "README.md").read_text()


def test_a_student_that_encodes_both_has_no_router(run):
    folder, _, _ = run("student")
    with pytest.raises(CoterieError, match="this run's student encodes both; use format sentence-transformers"):
        coterie.export_run(folder.path, "router")
    with pytest.raises(
        CoterieError, match="format 'timm' is not for task=retrieval; expected sentence-transformers or router or onnx"
    ):
        coterie.export_run(folder.path, "timm")


@pytest.mark.slow
def test_the_graph_of_the_query_tower_gives_its_vectors(run):
    onnxruntime = pytest.importorskip("onnxruntime")
    folder, encoder, _ = run("teacher")
    target = coterie.export_run(folder.path, "onnx")
    session = onnxruntime.InferenceSession(str(target / "model.onnx"), providers=["CPUExecutionProvider"])
    for texts in (TEXTS, TEXTS[:1]):
        tokens = encoder.preprocess(texts, prompt="how to ")
        (vectors,) = session.run(None, {name: tokens[name].numpy() for name in ("input_ids", "attention_mask")})
        np.testing.assert_allclose(vectors, encoder.encode_query(texts), atol=1e-5)
    said = json.loads(session.get_modelmeta().custom_metadata_map["coterie"])
    assert said == {"query_prompt": "how to ", "max_length": "64", "similarity": "cosine"}


def test_an_encoder_is_described_and_built_again(tiny_encoder, tokenizer):
    encoder = projected(tiny_encoder(3, pooling="cls"), 8, False, 0)
    again = rebuild_encoder(json.loads(json.dumps(describe_encoder(encoder))), tokenizer)
    assert encoder_digest(again) != encoder_digest(encoder)
    again.load_state_dict(encoder.state_dict())
    assert encoder_digest(again) == encoder_digest(encoder)
    np.testing.assert_array_equal(again.encode(TEXTS), encoder.encode(TEXTS))
    assert again.similarity_fn_name == "dot"
    assert width_of(again) == 8


def test_layers_are_cut_and_all_of_them_are_the_encoder(tiny_encoder):
    encoder = tiny_encoder(3)
    np.testing.assert_array_equal(cut_encoder(encoder, [0, 1, 2]).encode(TEXTS), encoder.encode(TEXTS))
    cut = cut_encoder(encoder, [2])
    assert cut[0].model.config.num_hidden_layers == 1
    assert encoder[0].model.config.num_hidden_layers == 3
    kept = dict(encoder[0].model.encoder.layer[2].named_parameters())
    for name, value in cut[0].model.encoder.layer[0].named_parameters():
        assert value.equal(kept[name])
        assert value is not kept[name]


def test_a_projection_of_one_width_starts_as_the_identity(tiny_encoder):
    encoder = tiny_encoder(3)
    expected = encoder.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(projected(encoder, 32, True, 0).encode(TEXTS), expected, atol=1e-6)
    narrow = [projected(tiny_encoder(3), 8, True, seed)[2].linear.weight for seed in (0, 0, 1)]
    assert narrow[0].equal(narrow[1])
    assert not narrow[0].equal(narrow[2])


def test_what_is_no_encoder_is_refused(tiny_encoder, tokenizer, tmp_path):
    with pytest.raises(CoterieError, match=r"has no config.json"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CoterieError, match="holds no weights in safetensors"):
        load_encoder(str(tmp_path))
    with pytest.raises(CoterieError, match=r"there is no folder './gone'"):
        load_encoder("./gone")
    with pytest.raises(CoterieError, match=r"network.max_length=65 is above the network's 64 positions"):
        build_encoder(config_of({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}), tokenizer, max_length=65)  # fmt: skip
    encoder = tiny_encoder()
    encoder[1].include_prompt = False
    with pytest.raises(CoterieError, match="leaves its prompt out of the pooling"):
        require_plain(encoder, "x")


def test_a_folder_of_transformers_alone_is_pooled_as_asked(tiny_encoder, tmp_path):
    encoder = tiny_encoder(4)
    encoder[0].model.save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    np.testing.assert_allclose(load_encoder(str(tmp_path)).encode(TEXTS), encoder.encode(TEXTS), atol=1e-6)
    first = load_encoder(str(tmp_path), pooling="cls")
    assert first[1].pooling_mode == "cls"
    assert np.abs(first.encode(TEXTS) - encoder.encode(TEXTS)).max() > 1e-3
