"""Declaration of a task's export formats. Nothing heavy is imported."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """Attributes:
    name: name of the format, as users give it.
    writer: ``module:function`` that fills a folder: it takes a :class:`coterie.tasks.exporting.Subject`, the folder and the run's gallery, and returns a
        sentence about what was compared, or an empty string.
    library: the library that loads it, by the Hub's name.
    ensembles: whether it can hold several students, or a method's own modules; otherwise it holds one plain network.
    described: whether ``student.json`` is written next to it, because the format does not describe how samples are prepared.
    quantizer: ``module:function`` that replaces the float file with an int8 file, given the folder and the run's data; empty if there is none.
    """

    name: str
    writer: str
    library: str
    ensembles: bool = False
    described: bool = True
    quantizer: str = ""


NONE: tuple[Format, ...] = ()  # for a task without exports
