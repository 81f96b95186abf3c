from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import coterie
from coterie import cli
from coterie.cli import arguments
from coterie.cli.output import print_classes, print_figures
from coterie.errors import CoterieError
from coterie.recipe import load_recipe
from coterie.recipe.errors import ABBREVIATIONS
from coterie.recipe.recipe import known_keys
from coterie.tasks import known_tasks

FORBIDDEN = "torch", "timm", "numpy", "sklearn", "matplotlib"


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["list", "methods"], ["list", "networks"], ["list", "data"]])  # fmt: skip
def test_help_and_listings_import_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['coterie', *{arguments!r}]\n"
        "from coterie.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr.strip() == "[]"
    assert process.stdout


def test_import_coterie_imports_nothing_heavy():
    code = f"import sys, coterie; assert not [n for n in {FORBIDDEN!r} if n in sys.modules]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_in_a_file_of_the_working_folder_is_found(tmp_path, monkeypatch, command):
    (tmp_path / "mine.py").write_text(
        "from coterie.methods.independent import Independent\n\n\nclass Mine(Independent):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    # As for an installed script, the working folder is not on the path.
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each not in {"", str(tmp_path)}])
    said = command("train", "method=mine:Mine", "method.strength=1")
    assert said.code == 2
    assert "unknown setting 'method.strength' of method=mine:Mine" in said.err


def test_every_public_name_exists():
    import coterie

    for name in coterie.__all__:
        assert getattr(coterie, name) is not None
    assert sorted(coterie._LOCATIONS) == sorted(coterie.__all__)


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["coterie", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import coterie

    settings = {"network": {"branches": 2}, "training": {"epochs": 1, "device": "cpu"}, "data": {"train_limit": 100}}
    return coterie.train(settings, output=tmp_path_factory.mktemp("cli") / "run", quiet=True)


def test_train_prints_the_table_and_where_things_are(run, tmp_path):
    output = run(
        "train", "training.epochs=1", "training.device=cpu", "network.branches=2", "--output", tmp_path / "a", "-q"
    )
    for words in (
        "student 0",
        "student 1",
        "(deployed)",
        " is deployed: ",
        "mean student",
        "ensemble, the method's",
        "diversity",
        "report.html",
    ):
        assert words in output


@pytest.mark.slow
def test_a_baselines_table_has_no_ensemble(run, tmp_path):
    output = run(
        "train", "method=baseline", "training.epochs=1", "training.device=cpu", "--output", tmp_path / "a", "-q"
    )
    assert "student 0 (deployed)" in output
    assert "ensemble" not in output
    assert "is deployed" not in output


def test_evaluate_repeats_the_figures(run, trained):
    figures = json.loads(run("evaluate", trained.path, "--json"))
    assert figures["split"] == "test"
    assert figures["deployed"] == trained.summary["deployed"]
    assert figures["per_class"] == trained.summary["per_class"]
    assert "mean student" in run("evaluate", trained.path)


def test_evaluate_prints_every_class(run, trained):
    output = run("evaluate", trained.path, "--per-class")
    student = trained.summary["deployed"]["student"]
    rows = [line.split() for line in output.partition(f"student {student} by class")[2].splitlines() if line.strip()][
        1:
    ]
    classes = trained.summary["per_class"]
    assert [row[0] for row in rows] == [each["name"] for each in classes] == list("0123456789")
    assert [int(row[-1]) for row in rows] == [each["support"] for each in classes]
    assert sum(each["support"] for each in classes) == trained.summary["num_test"]
    for row, each in zip(rows, classes, strict=True):
        expected = ["–" if each[key] is None else f"{each[key]:.2%}" for key in ("precision", "recall", "f1")]
        assert row[1:4] == expected
    right = sum(each["recall"] * each["support"] for each in classes)
    assert right / trained.summary["num_test"] == pytest.approx(trained.summary["deployed"]["top1"], abs=1e-6)
    assert (
        f"balanced accuracy of the deployed student: {trained.summary['deployed']['balanced_accuracy']:.2%}" in output
    )


@pytest.mark.parametrize(("classes", "shown"), [(2, False), (9, False), (10, True), (100, True)])
def test_top5_is_shown_from_ten_classes_on(capsys, classes, shown):
    values = {"top1": 0.5, "top5": 0.9, "nll": 1.0, "brier": 0.5, "ece": 0.1}
    figures = {"deployed": {"student": 0, **values}, "students": [values], "diversity": {}}
    print_figures(figures | {"class_names": ["name"] * classes}, "test")
    assert ("top-5" in capsys.readouterr().out) == shown


def test_class_names_are_printed_as_they_are(capsys):
    names = ["plain_class", "[bold]red[/bold]", "$x$", "<b>", "日本語", "n" * 200]
    absent = {"precision": None, "recall": None, "f1": None, "support": 0}
    print_classes({"deployed": {"student": 3}, "per_class": [{"name": name, **absent} for name in names]})
    output = capsys.readouterr().out
    assert all(name in output for name in names[:-1])
    assert output.count("n") >= 200  # a long name is folded, not cut


def test_predict_names_classes_and_probabilities(run, trained):
    pictures = sorted((trained.path / "gallery").glob("*.png"))[:2]
    lines = run("predict", trained.path, *pictures, "--top", "3").splitlines()
    assert len(lines) == 8
    assert lines[0] == str(pictures[0])
    shares = [float(line.split("%")[0]) for line in lines[1:4]]
    assert shares == sorted(shares, reverse=True)
    assert all(line.split()[-1] in "0123456789" for line in lines[1:4])


def test_report_and_export_say_where(run, trained, tmp_path):
    assert "report.html" in run("report", trained.path)
    folder = run("export", trained.path, "--format", "safetensors", "--output", tmp_path / "out").strip()
    assert folder == str(tmp_path / "out")


@pytest.mark.slow
def test_several_different_networks_and_a_view_for_each(run, tmp_path):
    output = run(
        "train", "network=[tiny_cifar,resnet8_cifar]", "data.views=per_student", "training.epochs=1", "training.device=cpu",
        "data.train_limit=100", "--output", tmp_path / "a", "-q",
    )  # fmt: skip
    assert "student 1" in output
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["network"] == "tiny_cifar+resnet8_cifar"
    import coterie

    deployed = json.loads((tmp_path / "a" / "student.json").read_text())
    assert deployed["network"] == ["tiny_cifar", "resnet8_cifar"][deployed["student"]]
    assert coterie.load_student(tmp_path / "a").num_classes == 10


def test_listings(run, monkeypatch, tmp_path):
    listed = run("list", "methods")
    assert "okdmde" in listed
    headings = [line for line in listed.splitlines() if line.startswith("[")]
    assert len(headings) == len(set(headings)) > 5
    assert "resnet32_cifar" in run("list", "networks")
    assert "cifar100" in run("list", "data")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("# A title\ndata: digits\n")
    monkeypatch.chdir(tmp_path)
    assert "A title" in run("list", "recipes")
    assert [line.split()[0] for line in run("list", "methods", "okdm").splitlines()[1:]] == ["okdmde"]


def test_networks_are_filtered_by_a_part_or_a_pattern(run):
    names = [line.split()[0] for line in run("list", "networks", "mobilenetv3_small").splitlines()]
    assert "mobilenetv3_small_050" in names
    assert all("mobilenetv3_small" in name for name in names)
    names = [line.split()[0] for line in run("list", "networks", "resnet1?").splitlines()]
    assert names == ["resnet18"]
    assert "resnet32_cifar" in run("list", "networks", "ResNet32")


def test_every_setting_is_listed_with_its_default(run):
    output = run("list", "settings")
    settings = {}
    for line in output.splitlines():
        key, _, value = line.strip().partition("=")
        if line.startswith("  ") and line[2] != " ":
            settings.setdefault(key, value)  # the first task's come first
    inner = [key for key in known_keys() if "." in key]
    assert set(inner) <= settings.keys()
    assert settings["optimizer.learning_rate"] == "auto"
    # What is listed can be typed as it stands.
    load_recipe(None, [f"{key}={settings[key]}" for key in inner if not key.startswith("teacher.")])
    for task in known_tasks():
        for section in ("data", "network", "teacher"):
            mine = run("list", "settings", section).partition(f"[task={task}]")[2].partition("[task=")[0]
            assert all(f"  {key}=" in mine for key in known_keys(task) if key.startswith(f"{section}."))
        alone = run("list", "settings", task)
        assert alone == run("list", "settings", f"task={task}")
        assert {line for line in alone.splitlines() if line.startswith("[task=")} == {f"[task={task}]"}
        assert all(f"  {key}=" in alone for key in known_keys(task) if key.count(".") == 1)
    assert run("list", "settings", "rank").splitlines()[0] == "[task=language_modeling]"
    assert "  network.lora.rank=null" in run("list", "settings", "rank")
    shared = output.rpartition("[task=language_modeling]")[2].partition("[every task]")[2]
    assert "  teaching.weight=" in shared
    assert "  seed=0" in shared
    schedule = run("list", "settings", "schedule")
    assert all(line.startswith("  schedule.") for line in schedule.splitlines()[1::2])
    assert "> 0, ≤ 1" in schedule.partition("schedule.decay_rate")[2].splitlines()[1]


def test_published_recipes_are_found_anywhere(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    listed = [line.split()[0] for line in run("list", "recipes").splitlines()]
    files = {path.stem: path for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml")}
    assert listed == sorted(files)
    for name in (listed[0], f"{listed[0]}.yaml", f"recipes/{listed[0]}.yaml"):
        assert arguments.recipe_and_overrides([name, "seed=1"]) == (str(files[listed[0]]), ["seed=1"])


@pytest.mark.slow
def test_a_wheel_brings_the_recipes(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
        str(root),
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {Path(name).stem for name in zipfile.ZipFile(wheel).namelist() if name.startswith("coterie/recipes/")}
    assert inside == {path.stem for path in (root / "recipes").glob("*.yaml")}


def test_a_folder_alone_means_its_pictures(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("pics", "digits", "a: b #c"):
        (tmp_path / name).mkdir()
        source, overrides = arguments.recipe_and_overrides([name, "seed=1"])
        assert source is None
        assert Path(load_recipe(source, overrides).data.name).samefile(tmp_path / name)
        assert load_recipe(source, overrides).data.name != "digits"
    assert load_recipe(*arguments.recipe_and_overrides([str(tmp_path / "pics")])).data.name == str(tmp_path / "pics")


@pytest.mark.parametrize("arguments", [["train", "picz"], ["train", "data=picz"], ["train", "./picz"], ["train", "data=./picz"], ["benchmark", "picz"]])  # fmt: skip
def test_a_folder_that_is_not_there_is_named_before_torch_is_imported(arguments, tmp_path):
    (tmp_path / "pics").mkdir()
    code = (
        f"import sys; sys.argv = ['coterie', *{arguments!r}]\n"
        "from coterie.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 2\n"
        "print([name for name in ('torch', 'timm') if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    said, modules = process.stderr.splitlines()
    assert "picz" in said
    assert "did you mean 'pics'" in said
    assert modules == "[]"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr=0.1", "optimizer.learning_rate"),
        ("optimizer.lr=0.1", "optimizer.learning_rate"),
        ("learning_rate=0.1", "optimizer.learning_rate"),
        ("wd=1", "optimizer.weight_decay"),
        ("epochs=3", "training.epochs"),
        ("epoch=3", "training.epochs"),
        ("batch_size=3", "training.batch_size"),
        ("model=resnet18", "network.name"),
        ("trackers=wandb", "training.trackers"),
    ],
)
def test_settings_without_their_section_are_recognised(typed, meant):
    with pytest.raises(CoterieError, match=rf"did you mean '{re.escape(meant)}'"):
        load_recipe(None, [typed])
    assert meant in known_keys()


def test_every_abbreviation_means_a_setting():
    assert set(ABBREVIATIONS.values()) <= set(known_keys())
    assert not set(ABBREVIATIONS) & {key.rpartition(".")[2] for key in known_keys()} - {"device"}


@pytest.mark.parametrize(
    ("typed", "trackers"),
    [
        ("tensorboard", ["tensorboard"]),
        ("[wandb]", ["wandb"]),
        ("tensorboard, mlflow", ["tensorboard", "mlflow"]),
        ("[]", []),
    ],
)
def test_trackers_need_no_brackets(typed, trackers):
    assert load_recipe(None, [f"training.trackers={typed}"]).training.trackers == trackers
    with pytest.raises(CoterieError, match="tensorbord"):
        load_recipe(None, ["training.trackers=tensorbord"])


def test_the_programs_own_options(run):
    assert run("--version").split() == ["coterie", coterie.__version__]
    assert "Usage" in run("train", "-h")
    assert "coterie list settings" in " ".join(run("train", "--help").replace("│", "").split())
    assert "--install-completion" in run("-h")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="Windows knows no such signal")
def test_where_nobody_reads_on_it_ends_silently_by_the_signal():
    command = [sys.executable, "-m", "coterie", "list", "settings"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == -signal.SIGPIPE
