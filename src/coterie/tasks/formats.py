"""A format of an export, as a task declares it. Nothing heavy is imported."""

from __future__ import annotations

from typing import NamedTuple


class Format(NamedTuple):
    """Attributes:
    name: as it is asked for.
    writer: ``module:function`` of what fills a folder: it takes a :class:`coterie.tasks.exporting.Subject`, the folder and the run's gallery, and says in a
        sentence what was compared, or nothing.
    library: that loads it, in the Hub's words.
    ensembles: whether it can hold several students, or a method's own modules; else it is one plain network.
    described: whether ``student.json`` stands beside it, since the format itself does not say how samples are prepared.
    quantizer: ``module:function`` of what puts an int8 file in place of the float one, from the folder and the run's data; empty where there is none.
    """

    name: str
    writer: str
    library: str
    ensembles: bool = False
    described: bool = True
    quantizer: str = ""


NONE: tuple[Format, ...] = ()  # of a task whose students are not exported
