#!/usr/bin/env bash
# Builds the wheel and the source distribution, checks their metadata, installs the wheel into a fresh environment and runs a training from it.
# Publishes nothing. PYTHON: an interpreter that has build and twine.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${PYTHON:-.venv/bin/python}")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

rm -rf dist
"$python" -m build --outdir dist .
"$python" -m twine check --strict dist/*

"$python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip install --quiet dist/*.whl
cd "$place" # so that nothing of the checkout is found
"$place/venv/bin/coterie" --version
recipes=$("$place/venv/bin/coterie" list recipes)
grep -q cifar <<<"$recipes" # package data: recipes
"$place/venv/bin/coterie" train data=digits network=tiny_cifar training.epochs=1 --output run
test -s run/report.html # package data: templates of the report
"$place/venv/bin/coterie" export run --format timm --output exported
test -s exported/README.md # and of the card
echo "dist/ is ready: $(ls "$OLDPWD"/dist | tr '\n' ' ')"
