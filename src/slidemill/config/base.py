"""What every section of the configuration is made of."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What names that become part of a path may look like."""

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=80)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Device = Literal["auto", "cpu", "cuda", "mps"]


class Section(BaseModel):
    """Base of every section: unknown keys are refused and values cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)
