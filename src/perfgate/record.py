"""What all frozen records have in common."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NonNegative: TypeAlias = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"
Name: TypeAlias = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=120)]
"""A name that is also a file name: it becomes a path component of a baseline."""


class Record(BaseModel):
    """A frozen value that refuses unknown fields, wrong types, NaN and infinities."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, ser_json_inf_nan="null", use_attribute_docstrings=True
    )
