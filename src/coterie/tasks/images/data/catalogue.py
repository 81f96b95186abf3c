"""The named data sets, as plain text that is imported without torch."""

from __future__ import annotations

import os
from pathlib import Path

from coterie.errors import CoterieError, did_you_mean
from coterie.recipe.sections import OWN_DATA

DATA: dict[str, str] = {
    "digits": "scikit-learn's 1,797 digit images, 8x8 grey, 10 classes; embedded, needs no network",
    "cifar10": "50,000 + 10,000 images 32x32, 10 classes; downloaded by torchvision, or read from data.root",
    "cifar100": "50,000 + 10,000 images 32x32, 100 classes; downloaded by torchvision, or read from data.root",
    "cinic10": "90,000 images 32x32 in each of train, valid and test, 10 classes; a folder tree in data.root",
    "fashion_mnist": "60,000 + 10,000 images 28x28 grey, 10 classes; downloaded by torchvision, or read from data.root",
    "FOLDER": "train/ and val/ or test/ with one sub-folder per class, or the class folders without splits",
    "wds://PATH": "tar files in WebDataset format, such as wds://photos/train-{000..127}.tar, or a folder of them",
    "parquet://PATH": "parquet files of encoded images and classes, such as parquet://photos/train-*.parquet, or a folder of them (extra `hub`)",
    "hf://USER/NAME": "a data set of the Hugging Face Hub (extra `hub`)",
}


def require_folder(name: str) -> Path:
    """Returns the folder with this name, which is not one of the data sets above.

    Raises:
        CoterieError: the folder does not exist; the message suggests folders and data sets with a similar name.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    try:
        beside = [each.name for each in path.parent.iterdir() if each.is_dir()]
    except OSError:
        beside = []
    if "/" in name or os.sep in name:
        near = did_you_mean(path.name, beside)
        raise CoterieError(f"there is no folder {str(path)!r}{near}")
    known = [each for each in DATA if each.islower() and "/" not in each]
    near = did_you_mean(name, [*beside, *known])
    raise CoterieError(
        f"there is no folder {name!r} and no data set of this name{near}; expected {', '.join(known)}, a folder, wds://path.tar, parquet://path.parquet, or hf://user/dataset"
    )


def require_place(name: str) -> None:
    """Like :func:`require_folder`, but accepts data sets that need no folder; called before torch is imported."""
    if name not in DATA and "://" not in name and name != OWN_DATA:
        require_folder(name)
