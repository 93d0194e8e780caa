"""What is wrong with a value that somebody gave, in words of ours: what came, and what is legal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Details = Mapping[str, Any]
LENGTH = 60  # of a value that is shown
# By the types of pydantic's errors (docs.pydantic.dev/latest/errors/validation_errors).
LEGAL: dict[str, Callable[[Details], str]] = {
    "literal_error": lambda ctx: ctx["expected"].replace("'", "").replace(" or ", ", "),
    "greater_than_equal": lambda ctx: f"{ctx['ge']:g} or more",
    "greater_than": lambda ctx: f"more than {ctx['gt']:g}",
    "less_than_equal": lambda ctx: f"{ctx['le']:g} or less",
    "less_than": lambda ctx: f"less than {ctx['lt']:g}",
    "too_long": lambda ctx: f"{ctx['max_length']} values",
    "too_short": lambda ctx: f"{ctx['min_length']} values",
}
KINDS = {
    "int": "a whole number", "float": "a number", "finite": "a finite number", "bool": "true or false",
    "string": "text in quotes", "tuple": "a list", "list": "a list", "dict": "a table", "model": "a table", "path": "a path",
}  # fmt: skip


def complaint(model: type[BaseModel], error: ValidationError, *, hidden: Sequence[str] = ()) -> str:
    """The first thing wrong with what was to become a `model`: "key = value; legal: …", or "key is not known; legal: keys".

    `hidden`: keys that are not the user's to give.
    """
    first = error.errors()[0]
    within, key = model, ".".join(str(part) for part in first["loc"] if part != "[key]")
    for part in first["loc"][:-1]:
        within = _within(within, part)
    if first["type"] == "extra_forbidden":
        return f"{key} is not known; legal: {', '.join(name for name in within.model_fields if name not in hidden)}"
    if first["type"] == "missing":
        return f"{key} is missing; give it"
    return f"{key} = {_shown(first['input'])}; {rule(first)}" if key else rule(first)


def rule(first: Mapping[str, Any]) -> str:
    """What one of pydantic's errors asks for: "legal: …"; what a validator of ours says, as it is."""
    kind, details = first["type"], first.get("ctx", {})
    if kind in LEGAL:
        return f"legal: {LEGAL[kind](details)}"
    known = KINDS.get(kind.partition("_")[0])
    return f"legal: {known}" if known else str(first["msg"]).removeprefix("Value error, ")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= LENGTH else shown[: LENGTH - 1] + "…"


def _within(model: type[BaseModel], part: int | str) -> type[BaseModel]:
    """The record under a key; itself where the part is a key of a table of records, or a place in a list."""
    field = model.model_fields.get(str(part))
    for kind in (*get_args(field.annotation), field.annotation) if field else ():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return model
