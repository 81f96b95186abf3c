from __future__ import annotations

import pytest
from pydantic import ValidationError

from coterie.tasks.language.settings import LanguageData


@pytest.mark.parametrize(
    "settings",
    [
        {"block_length": 1},
        {"validation": 1.0},
        {"test": "some"},
        {"packing": "none"},
        {"stream": 0},
        {"image_size": 32},
    ],
)
def test_what_is_out_of_bounds_or_of_another_task_is_refused(settings):
    with pytest.raises(ValidationError):
        LanguageData(**settings)


def test_every_setting_is_described(tmp_path):
    assert all(field.description for field in LanguageData.model_fields.values())
    assert LanguageData(name=tmp_path).name == str(tmp_path)
