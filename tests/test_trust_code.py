"""A method by ``package.module:Class`` is imported where the user names it; where a file of somebody's does, only with leave."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

import coterie
from coterie.comparison.arms import build_arms
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.running.reload import evaluate_run, load_method

MODULE = "somebodys_method"
METHOD = f"{MODULE}:Mine"
CODE = "from coterie.methods.independent import Independent\n\n\nclass Mine(Independent):\n    pass\n"
SMALL = {"data": {"train_limit": 60}, "network": {"branches": 2}, "training": {"epochs": 1, "device": "cpu"}}
SPELLINGS = {
    "short": f"method: {METHOD}\n",
    "name": f"method:\n  name: '{METHOD}'\n",
    "options": f"method: {{temperature: 2.0, name: {METHOD}}}\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with the module, recipes that name it, and a run and a comparison that were made with it."""
    root = tmp_path_factory.mktemp("somebody")
    (root / f"{MODULE}.py").write_text(CODE)
    for name, text in SPELLINGS.items():
        (root / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "path", list(sys.path))
        coterie.train(SMALL, method=METHOD, output="run", quiet=True)  # a keyword is the caller's own word
        coterie.compare({"mine": {**SMALL, "method": METHOD}}, seeds=1, output="comparison")
    sys.modules.pop(MODULE)
    return root


@pytest.fixture
def place(made, monkeypatch):
    """The working folder is that folder, whose module was never imported."""
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield made
    sys.modules.pop(MODULE, None)


FROM_A_FILE = {
    "train": "train {recipe} data.train_limit=60 network.branches=2 training.epochs=1 training.device=cpu -o {new}",
    "resume": "train --resume -o {run}",
    "evaluate": "evaluate {run} training.device=cpu",
    "export the method": "export {run} --format safetensors --which method -o {new}",
    "compare": "compare {recipe} data.train_limit=60 network.branches=2 training.epochs=1 --seeds 1 -o {new}",
    "go on with a comparison": "compare data=digits --methods baseline training.epochs=1 data.train_limit=60 --seeds 1 -o {comparison}",
    "benchmark": "benchmark {recipe} data.train_limit=60 network.branches=2 --repetitions 1",
}


@pytest.mark.fast_for("train")
@pytest.mark.parametrize("name", FROM_A_FILE)
def test_code_that_a_file_names_is_imported_with_leave_only(name, place, tmp_path, command):
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.copytree(place / "comparison", tmp_path / "comparison")
    unfinished = {"resume": "run", "go on with a comparison": "comparison/runs/mine/seed0"}
    if name in unfinished:
        (tmp_path / unfinished[name] / "summary.json").unlink()
    places = {"recipe": place / "short.yaml", "new": tmp_path / "new"}
    places |= {"run": tmp_path / "run", "comparison": tmp_path / "comparison"}
    line = FROM_A_FILE[name].format(**places)
    code, _, message = command(*line.split())
    assert code == 2
    assert METHOD in message
    assert "--trust-code" in message
    assert message.count("\n") <= 2
    assert MODULE not in sys.modules
    assert str(place) not in sys.path
    assert not (tmp_path / "new").exists()
    assert "baseline" not in (tmp_path / "comparison" / "plan.json").read_text()
    if name == "benchmark":  # which takes long, and gets its recipe as train does
        return
    code, _, message = command(*line.split(), "--trust-code")
    assert code == 0, message
    assert MODULE in sys.modules


@pytest.mark.parametrize("line", ["report {run}", "export {run} -o {new}", "predict {run} {image}", "report {comparison}"])  # fmt: skip
def test_what_needs_no_method_imports_none_and_asks_for_no_leave(line, place, tmp_path, command):
    image = next((place / "run" / "gallery").glob("*.png"))
    places = {"run": place / "run", "comparison": place / "comparison", "new": tmp_path / "new", "image": image}
    said = command(*line.format(**places).split())
    assert (said.code, said.err) == (0, "")
    assert MODULE not in sys.modules


def test_what_is_typed_is_the_users_own_word(place, tmp_path, command):
    settings = "data.train_limit=60 network.branches=2 training.epochs=1 training.device=cpu"
    assert command(*f"train method={METHOD} {settings} -q -o {tmp_path / 'run'}".split()).code == 0
    assert command(*f"train --resume method.name={METHOD} -o {tmp_path / 'run'}".split()).code == 0
    line = f"compare {settings} --methods {METHOD} --seeds 1 -q -o {tmp_path / 'comparison'}"
    assert command(*line.split()).code == 0
    assert command(*line.split()).code == 0  # the plan's arm is this call's own


@pytest.mark.parametrize("name", SPELLINGS)
def test_recipes_from_files(name, place):
    path = place / f"{name}.yaml"
    with pytest.raises(CoterieError, match="trust_code=True"):
        load_recipe(path)
    with pytest.raises(CoterieError, match="trust_code=True"):
        load_recipe(str(path), ["method.temperature=3", "method={weight: 2}"], method={"ramp_up": 0.1})
    assert load_recipe(path, trust_code=True).method.name == METHOD
    assert load_recipe(path, ["method=dml"]).method.name == "dml"
    for overrides, sections in (
        ([f"method={METHOD}"], {}),
        ([f"method={{name: '{METHOD}'}}"], {}),
        ([], {"method": METHOD}),
        ([], {"method": {"name": METHOD}}),
    ):
        assert load_recipe(path, overrides, **sections).method.name == METHOD
    assert load_recipe({"method": METHOD}).method.name == METHOD


def test_python(place, tmp_path):
    with pytest.raises(CoterieError, match="trust_code=True"):
        coterie.train("short.yaml", output=tmp_path / "run")
    with pytest.raises(CoterieError, match="trust_code=True"):
        load_method("run")
    with pytest.raises(CoterieError, match="trust_code=True"):
        coterie.compare("short.yaml", seeds=1, output=tmp_path / "comparison")
    with pytest.raises(CoterieError, match="trust_code=True"):
        coterie.export_run("run", "safetensors", tmp_path / "export", which="method")
    assert list(build_arms(["short.yaml"], ["baseline"])) == ["baseline"]  # its own method is not asked for
    assert MODULE not in sys.modules
    split, _ = evaluate_run("run", ["training.device=cpu"], trust_code=True)
    assert split == json.loads((place / "run" / "summary.json").read_text())["split"]
