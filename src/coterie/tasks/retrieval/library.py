"""Imports the package sentence-transformers only when it is needed, and silences it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from coterie.errors import CoterieError
from coterie.networks.hugging_face import quiet_transformers


@contextlib.contextmanager
def quiet_sentence_transformers() -> Iterator[Any]:
    """Import the package and keep it silent while it loads models.

    Raises:
        CoterieError: it is not installed.
    """
    with quiet_transformers():
        try:
            import sentence_transformers
        except ImportError:
            raise CoterieError(
                "retrieval needs the package sentence-transformers: pip install 'coterie[retrieval]'"
            ) from None
        logger = logging.getLogger("sentence_transformers")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield sentence_transformers
        finally:
            logger.setLevel(level)


def module_class(name: str) -> Any:
    """Return the library's module with a name: Transformer, Pooling, Dense or Normalize."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    return {"Transformer": Transformer, "Pooling": Pooling, "Dense": Dense, "Normalize": Normalize}[name]
