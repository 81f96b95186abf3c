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
        "tones": "syllables of made-up speakers, generated on the spot; needs no network",
        "espeak": "words said by eSpeak NG in eight voices, where the package espeakng-loader is installed",
        "FOLDER": "files of audio (.wav, .flac, .ogg, .mp3, ...), in train/, val/ and test/ or alone; sub-folders are labels",
        "FILE.csv": "rows of a path, labels, and a split where there is one",
        "hf://USER/NAME": "a data set of the Hugging Face Hub with a column of audio (extra `hub`)",
    }

    name: Text = Field(
        "tones",
        description="tones (generated syllables), espeak (words by eSpeak NG), a folder of audio files, a .csv file with one row for each of them, or hf://user/dataset.",
    )
    path: str = Field(
        "path",
        description="Column of a .csv file's paths, from the file's own folder on; of a Hub data set another column of audio than the first.",
    )
    labels: Names | None = Field(
        None,
        description="Columns of labels, for probes; null: all but the path and `split`, of a Hub data set those of classes. Of a folder there is one, label.",
    )
    sample_rate: Annotated[int, Field(ge=4000, le=192_000)] = Field(
        16_000, description="Samples a second; files of other rates are resampled. It must be that of all networks."
    )
    max_seconds: Annotated[float, Field(ge=0.1)] = Field(
        15.6, description="A longer clip is cut, each epoch at another place; DistilHuBERT's value."
    )
    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.1, description="Share of the training clips held out where the data bring no validation split; 0: none."
    )
    distortion: Literal["none", "student", "both"] = Field(
        "none",
        description="Who hears distorted clips in training: nobody, the student while the teachers hear clean ones, or all.",
    )
    noise: Names = Field(
        default_factory=lambda: list(NOISES),
        description="Kinds of noise, one of them drawn for each clip: white, pink, babble (other training clips), or folders of audio.",
    )
    snr: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        default_factory=lambda: [0.0, 20.0], description="Lowest and highest ratio of signal to noise, in dB."
    )
    noise_share: Fraction = Field(1.0, description="Share of the clips that get noise.")
    reverberation: Fraction = Field(0.0, description="Share of the clips that sound as in a room of 0.1 to 0.6 s.")
    band_limit: Fraction = Field(0.0, description="Share of the clips without frequencies above one in 1 to 4 kHz.")
    probe: Literal["last_layer", "weighted_layers"] = Field(
        "last_layer",
        description="What linear probes read, as a mean over a clip's frames: the last layer, or a weighted sum of all hidden states whose weights they learn, as SUPERB does.",
    )
    cache_states: bool = Field(
        False,
        description="Compute the teachers' hidden states of the training clips once and read them from the cache folder, in bfloat16. Where teachers hear the same every epoch: distortion is none or student, and no clip is cut.",
    )
    workers: Positive = Field(4, description="Threads that read files.")

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
        description="A folder as save_pretrained writes it, a name of the Hugging Face Hub, or a .json file of a configuration's values; auto: the first teacher's configuration.",
    )
    layers: Positive | Auto = Field(
        AUTO,
        description="Transformer layers. auto: 2 of a teacher's configuration (as DistilHuBERT), all of one that is named.",
    )
    pretrained: bool | Auto = Field(
        AUTO, description="Start from the weights in the folder that is named; auto: where there are some."
    )
    initialize: Literal["auto", "fresh", "average"] | Annotated[int, Field(ge=0)] = Field(
        AUTO,
        description="Where its first weights come from, unless it has its own: the number of a teacher, from 0, whose convolutions, projection and first layers are copied; average: the mean of all teachers'; fresh: none. auto: 0 where the student has a teacher's configuration, else fresh.",
    )
    normalize: bool | Auto = Field(
        AUTO,
        description="Whether it hears each clip with mean 0 and variance 1. auto: as its own feature extractor says, or the first teacher's.",
    )
    cnn_gradient: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="Factor of the gradient that reaches the convolutions; 0 leaves them as they are."
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
        description="A folder with its weights, a name of the Hugging Face Hub, or a .json file of a configuration's values for one that knows nothing.",
    )
    normalize: bool | Auto = Field(
        AUTO, description="Whether it hears each clip with mean 0 and variance 1. auto: as its feature extractor says."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Of its weights; bfloat16 takes half the memory."
    )


class SpeechMethod(MethodRecipe):
    """The method's name; every other key is an argument of its constructor and is checked there."""

    name: str = Field("ekd", description="The method for encoders of speech.")


SETTINGS = TaskSettings(SpeechData, SpeechNetwork, SpeechTeacher, SpeechMethod)


def data_of(recipe: Recipe) -> SpeechData:
    """Return the recipe's ``data``, typed for speech."""
    return cast(SpeechData, recipe.data)


def network_of(recipe: Recipe) -> SpeechNetwork:
    """Return the recipe's ``network``, typed for speech."""
    return cast(SpeechNetwork, recipe.network)
