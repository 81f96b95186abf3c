"""Random wrong invocations, recipes and damaged runs: no traceback, no wall of text, nothing half-written.

Everything is drawn from one seed. What is drawn may turn out right; then it trains on a few digits.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import coterie
from coterie.recipe.recipe import known_keys

INVOCATIONS = 600
MOST_LINES, LONGEST_LINE = 4, 300
QUICK = ["training.epochs=1", "data.train_limit=60", "training.device=cpu", "network.branches=2"]
COMMANDS = ("train", "evaluate", "predict", "export", "compare", "benchmark", "report", "list")
OPTIONS = (
    "--output",
    "--resume",
    "--quiet",
    "--json",
    "--format",
    "--which",
    "--seeds",
    "--methods",
    "--top",
    "--workers",
)
METHODS = ("baseline", "okdmde", "dml", "kd", "kdcl", "byot", "okdmd", "json:loads", "os:system", "a.b:C", "")
TEXTS = [
    "",
    " ",
    "x",
    "null",
    "true",
    "no",
    "[]",
    "{}",
    "[[[[",
    "&a [*a]",
    "!!python/name:os.system",
    "2026-01-01",
    "1,2",
    "../..",
    "/",
]
TEXTS += [
    "/dev/null",
    "nowhere",
    "digits",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "ünïcödé",
    "a" * 5000,
    "%s%n",
    "$HOME",
    "{{7*7}}",
    "'",
    "\\",
]
NUMBERS = ["-1", "0", "0.5", "3", "nan", "inf", "-inf", "1e400", "5e-8", "-7.5", "0x10", "1_000"]
HUGE = ["9" * 40, "9" * 6000]
UNBOUNDED = {"training.epochs", "data.image_size", "training.accumulate"}  # as large as one likes: it only takes long
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A finished run, copies of it with damage, folders of pictures, and files that are none."""
    root = tmp_path_factory.mktemp("world")
    settings = {"network": {"branches": 2}, "training": {"epochs": 1, "device": "cpu"}, "data": {"train_limit": 60}}
    coterie.train(settings, output=root / "run", quiet=True)
    for label in ("cat", "dog"):
        (root / "pictures" / label).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "pictures" / label / f"{number}.png")
    (root / "binary").write_bytes(bytes(range(256)) * 8)
    (root / "empty").mkdir()
    return root


def value(draw: random.Random, key: str) -> str:
    pool = TEXTS + NUMBERS + ([] if key in UNBOUNDED else HUGE)
    return draw.choice(pool)


def key(draw: random.Random) -> str:
    name = draw.choice(
        [*known_keys(), "method.temperature", "method.weight", "optimizer.options.x", "network.options.y"]
    )
    if draw.random() < 0.3:  # a slip of the finger
        place = draw.randrange(len(name))
        name = name[:place] + draw.choice(["", "z", ".", "..", "=", "\x1b", "ß"]) + name[place + 1 :]
    return name


def override(draw: random.Random) -> str:
    name = key(draw)
    return f"{name}={value(draw, name)}"


def tree(draw: random.Random, depth: int = 0) -> str:
    """A recipe in YAML, more or less."""
    lines = []
    for _ in range(draw.randrange(1, 4)):
        name = draw.choice(
            ["data", "network", "method", "training", "optimizer", "teacher", "seed", "task", "nonsense", ""]
        )
        kind = draw.randrange(5)
        if kind == 0:
            lines.append(f"{name}: {value(draw, name)}")
        elif kind == 1:
            inner = key(draw).rpartition(".")[2]
            lines.append(f"{name}: {{{inner}: {value(draw, f'{name}.{inner}')}}}")
        elif kind == 2:
            lines.append(f"{name}: [{value(draw, name)}, 3]")
        elif kind == 3:
            lines.append(f"{name}:\n\t- {value(draw, name)}")
        else:
            lines.append("[" * draw.randrange(1, 4000) if draw.random() < 0.3 else f"- {name}")
    return "\n".join(lines)


def damaged(draw: random.Random, run: Path, target: Path) -> Path:
    """A copy of a run with one thing wrong."""
    shutil.copytree(run, target)
    path = draw.choice([each for each in target.rglob("*") if each.is_file() and "gallery" not in each.parts])
    kind = draw.randrange(4)
    content = path.read_bytes()
    if kind == 0:
        path.unlink()
    elif kind == 1:
        path.write_bytes(content[: draw.randrange(len(content))])
    elif kind == 2 and path.suffix == ".json":
        entries = json.loads(content)
        name = draw.choice(sorted(entries))
        if draw.random() < 0.5:
            del entries[name]
        else:
            entries[name] = draw.choice([None, -1, "x", [], {}, [[1]], {"a": {"b": 1}}, 1e308])
        path.write_text(json.dumps(entries))
    else:
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([draw.randrange(256)]) + content[place + 1 :])
    return target


def invocation(draw: random.Random, world: Path, place: Path, number: int) -> list[str]:
    """One command line."""
    kind = number % 6
    paths = [str(world / name) for name in ("run", "pictures", "binary", "empty", "nowhere")]
    if kind == 0:  # settings
        return ["train", *QUICK, *(override(draw) for _ in range(draw.randrange(1, 3))), "training.epochs=1"]
    if kind == 1:  # a recipe of random text
        path = place / "recipe.yaml"
        path.write_text(tree(draw), encoding="utf-8", errors="surrogatepass")
        return ["train", str(path), *QUICK]
    if kind == 2:  # a damaged run
        run = damaged(draw, world / "run", place / "run")
        what = draw.choice(["evaluate", "predict", "export", "report", "resume", "teacher"])
        if what == "predict":
            return ["predict", str(run), str(world / "pictures" / "cat" / "1.png")]
        if what == "export":
            return ["export", str(run), "--format", draw.choice(["timm", "safetensors"])]
        if what == "resume":
            return ["train", "--resume", "--output", str(run)]
        if what == "teacher":
            return ["train", "method=kd", f"teacher={run}", *QUICK[:3], "network=tiny_cifar"]
        return [what, str(run)]
    if kind == 3:  # commands and options in disorder
        words = [draw.choice([*COMMANDS, "trian", "", "-x", "--help-me", "--ouptut", "--training.epochs"])]
        for _ in range(draw.randrange(1, 5)):
            words.append(draw.choice([*OPTIONS, *paths, *TEXTS[:12], "methods", "data=digits"]))
        return [*words, *QUICK] if words[0] in {"train", "compare", "benchmark"} else words
    if kind == 4:  # the right command with a wrong place
        command = draw.choice(["evaluate", "predict", "export", "report"])
        return [
            command,
            draw.choice(paths[1:] + TEXTS),
            *([override(draw)] if command == "evaluate" else []),
            *([draw.choice(paths)] if command == "predict" else []),
        ]
    name = draw.choice(METHODS)
    return [
        "train",
        f"method={name}",
        f"method.{key(draw).rpartition('.')[2]}={value(draw, 'method')}",
        f"data={draw.choice([*paths[1:], 'digits'])}",
        *QUICK,
    ]


def contents(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Files by size and time, and folders: an empty one left behind is half-written too."""
    return {
        str(each): (each.stat().st_size, each.stat().st_mtime_ns) if each.is_file() else None
        for each in folder.rglob("*")
    }


def check(code: object, arguments: list[str], said: str, errors: str) -> None:
    assert code in (0, 1, 2), arguments
    assert "Traceback" not in errors, (arguments, errors[-2000:])
    assert not CONTROL.search(said + errors), (arguments, said, errors)
    if code:
        lines = [line for line in errors.splitlines() if not re.match(r"(epoch \d|asking the teachers)", line)]
        assert lines, arguments
        assert len(lines) <= MOST_LINES, (arguments, errors)
        assert max(map(len, lines)) <= LONGEST_LINE, (arguments, errors)
        # A run that fails says why in its own words; an error's type is told where nobody had foreseen it.
        assert "the run failed: " not in errors, (arguments, errors)
    if code == 2:
        assert not said, (arguments, said)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_random_invocations(world, tmp_path, monkeypatch, command, part):
    codes: dict[object, int] = {}
    for number in range(part, INVOCATIONS, 6):
        draw = random.Random(number)
        place = tmp_path / str(number)
        place.mkdir()
        monkeypatch.chdir(place)
        arguments = invocation(draw, world, place, number)
        before = contents(place) | contents(world)
        code, out, err = command(*arguments)
        check(code, arguments, out, err)
        if code == 2:
            assert contents(place) | contents(world) == before, arguments
        codes[code] = codes.get(code, 0) + 1
        shutil.rmtree(place)
        monkeypatch.chdir(tmp_path)
    print(f"part {part}: exit codes {codes}")
    assert sum(codes.values()) == INVOCATIONS / 6
    assert codes.get(2, 0) > 20
