"""Recipe sections specific to ``task=speech``: ``data``, ``network``, ``method`` and ``teacher``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, model_validator

from coterie.recipe import Recipe
from coterie.recipe.sections import (
    AUTO,
    Auto,
    DataRecipe,
    Fraction,
    MethodRecipe,
    NetworkRecipe,
    Positive,
    TaskSettings,
    TeacherRecipe,
    Text,
)

SCHEME = "hf://"
NOISES = ("white", "pink", "babble")


def _separated(value: object) -> object:
    """Split names that are separated by commas."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) and value.strip() else value


Names = Annotated[list[str], BeforeValidator(_separated)]


class SpeechData(DataRecipe):
    """The audio clips to learn from, their cropping and their distortion."""

    places: ClassVar[tuple[str, ...]] = ("name", "noise")
    without_effect: ClassVar[tuple[str, ...]] = ("workers",)
    files_have_splits: ClassVar = True
    names: ClassVar = {
        "tones": "syllables of synthetic speakers, generated on the fly; needs no network",
        "espeak": "words spoken by eSpeak NG in eight voices; needs the package espeakng-loader",
        "FOLDER": "audio files (.wav, .flac, .ogg, .mp3, ...), in train/, val/ and test/ or without these; sub-folders are labels",
        "FILE.csv": "rows with a path, labels and, optionally, a split",
        "hf://USER/NAME": "a data set of the Hugging Face Hub with a column of audio (extra `hub`)",
    }

    name: Text = Field(
        "tones",
        description="tones (generated syllables), espeak (words by eSpeak NG), a folder of audio files, a .csv file with one row for each of them, or hf://user/dataset.",
    )
    path: str = Field(
        "path",
        description="Column of paths in a .csv file, relative to its folder; for a Hub data set, the audio column if it is not the first one.",
    )
    labels: Names | None = Field(
        None,
        description="Columns of labels, for probes; null: all columns except the path and `split`; for a Hub data set, the class columns. A folder has one: label.",
    )
    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = Field(
        16_000,
        description="Samples per second; files with other rates are resampled. Must be the rate of all networks.",
    )
    max_seconds: Annotated[float, Field(ge=0.1)] = Field(
        15.6,
        description="Maximum length of a clip in seconds; longer clips are cropped, at another place in each epoch. The default is DistilHuBERT's.",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1,
        description="Fraction of the training clips held out as the validation split if the data have none; 0: none.",
    )
    distortion: Literal["none", "student", "both"] = Field(
        "none",
        description="Which networks get distorted clips in training: none, the student only (teachers get clean clips), or student and teachers.",
    )
    noise: Names = Field(
        default_factory=lambda: list(NOISES),
        description="Kinds of noise, one drawn at random for each clip: white, pink, babble (other training clips), or folders of audio.",
    )
    snr: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.0, 20.0], description="Lowest and highest signal-to-noise ratio, in dB."
    )
    noise_share: Fraction = Field(1.0, description="Fraction of the clips with added noise.")
    reverberation: Fraction = Field(0.0, description="Fraction of the clips with reverberation of 0.1 to 0.6 s.")
    band_limit: Fraction = Field(
        0.0, description="Fraction of the clips that are low-pass filtered, with a random cut-off in 1 to 4 kHz."
    )
    probe: Literal["last_layer", "weighted_layers"] = Field(
        "last_layer",
        description="Input of linear probes, averaged over a clip's frames: the last layer, or a weighted sum of all hidden states with learned weights, as in SUPERB.",
    )
    cache_states: bool = Field(
        False,
        description="Compute the teachers' hidden states of the training clips once, store them in the cache folder in bfloat16, and read them in every epoch. Requires that teachers get the same clips every epoch: distortion is none or student, and no clip is cropped.",
    )
    workers: Positive = Field(4, description="Number of threads that read files.")

    @model_validator(mode="after")
    def _check_distortion(self) -> SpeechData:
        if self.snr[0] > self.snr[1]:
            raise ValueError(f"snr={self.snr}: expected the lowest and the highest ratio")
        if not self.noise:
            raise ValueError("noise is empty; name a kind, or set noise_share=0")
        if self.cache_states and self.distortion == "both":
            raise ValueError("cache_states has no effect with distortion=both: teachers hear other clips every epoch")
        if self.distortion == "none":
            for key in ("noise", "snr", "noise_share", "reverberation", "band_limit"):
                if getattr(self, key) != type(self).model_fields[key].get_default(call_default_factory=True):
                    raise ValueError(f"{key} has no effect with distortion=none; expected student or both")
        return self


class SpeechNetwork(NetworkRecipe):
    """The encoder to train: the first teacher's architecture with fewer layers, or any speech encoder of transformers."""

    name: Text | None = Field(
        AUTO,
        description="A folder written by save_pretrained, a Hugging Face Hub name, or a .json file with configuration values; auto: the first teacher's configuration.",
    )
    layers: Positive | Auto = Field(
        AUTO,
        description="Number of Transformer layers. auto: 2 if the student uses a teacher's configuration (as DistilHuBERT), all of a network given by `name`.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights of the folder or Hub name; auto: if there are any."
    )
    initialize: Literal["auto", "fresh", "average"] | Annotated[int, Field(ge=0)] = Field(
        AUTO,
        description="Initial weights, unless the student has its own: the index of a teacher, from 0, whose convolutions, projection and first layers are copied; average: the mean of all teachers' weights; fresh: random. auto: 0 if the student uses a teacher's configuration, else fresh.",
    )
    normalize: bool | Auto = Field(
        AUTO,
        description="Normalise each input clip to mean 0 and variance 1. auto: as set in its own feature extractor, or the first teacher's.",
    )
    cnn_gradient: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Factor on the gradient of the convolutions; 0 freezes them."
    )

    @property
    def weights_of(self) -> str | None:
        """Return the source of the initial weights, in words."""
        if self.pretrained is True:
            return "pretrained"
        if self.initialize == "average":
            return "starts from the mean of its teachers"
        return (
            f"starts from the first layers of teacher {self.initialize}" if isinstance(self.initialize, int) else None
        )


class SpeechTeacher(TeacherRecipe):
    """A frozen speech encoder as teacher: a finished run, a folder or a name on the Hub."""

    network: Text | None = Field(
        None,
        description="A folder with the weights, a Hugging Face Hub name, or a .json file with configuration values for an untrained teacher.",
    )
    normalize: bool | Auto = Field(
        AUTO, description="Normalise each input clip to mean 0 and variance 1. auto: as set in its feature extractor."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Data type of the teacher's weights; bfloat16 takes half the memory."
    )


class SpeechMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field("ekd", description="Name of the method; ekd is the one for speech encoders.")


SETTINGS = TaskSettings(SpeechData, SpeechNetwork, SpeechTeacher, SpeechMethod)


def data_of(recipe: Recipe) -> SpeechData:
    """Return the recipe's ``data``, typed for speech."""
    return cast(SpeechData, recipe.data)


def network_of(recipe: Recipe) -> SpeechNetwork:
    """Return the recipe's ``network``, typed for speech."""
    return cast(SpeechNetwork, recipe.network)
