"""Options as data: frozen, strict, and helpful about typing errors.

Every seam of nasimb (data sets, norms, losses, heads) follows one pattern. The options of a member are a frozen
`Spec`; its behaviour is what the spec's own method builds from runtime objects; its name stands in one visible
table. A user's own class is written `package.module:Class` where the name goes.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from nasimb.errors import InputError, unknown_name

S = TypeVar("S", bound="Spec")


class Spec(BaseModel):
    """Options of one thing: immutable, hashable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def parse(spec_type: type[S], values: Mapping[str, Any], *, what: str) -> S:
    """`spec_type(**values)`, with every complaint in one line.

    Raises:
        InputError: names the dotted key, the value found, and for an unknown key the nearest known one.
    """
    try:
        return spec_type.model_validate(dict(values))
    except ValidationError as error:
        raise explain(error, spec_type, what=what) from None


def explain(error: ValidationError, spec_type: type[BaseModel], *, what: str) -> InputError:
    """The most telling complaint of a pydantic error as a nasimb sentence."""
    # A misspelt required key is both missing and unknown; the unknown one says what was meant.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause  # a validator of ours has said all there is to say
    key = ".".join(str(part) for part in first["loc"]) or what
    if first["type"] == "extra_forbidden":
        known = _keys_at(spec_type, first["loc"][:-1])
        nearest = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"Did you mean {nearest[0]!r}? " if nearest else ""
        return InputError(
            f"{what} may only have known keys",
            got=f"the unknown key {key!r}",
            do=f"{hint}Known here: {', '.join(sorted(known))}.",
        )
    if first["type"] == "missing":
        return InputError(f"{what} must have the key {key!r}", got="nothing", do="Add it.")
    message = first["msg"].removeprefix("Value error, ")
    value = first.get("input")
    hint = ""
    if isinstance(value, str) and "number" in message and _is_number(value):
        hint = f" (YAML reads {value} as text; write {float(value)!r})"
    return InputError(f"{what}: {key} must be valid", got=f"{value!r}", do=f"{message[:1].upper()}{message[1:]}{hint}.")


def from_table(table: Mapping[str, type[S]], value: str | Mapping[str, Any], *, what: str) -> S:
    """The spec that a configuration value names: `"focal"` or `{name: focal, gamma: 2}`.

    A name with a colon, `my_lab.losses:Margin`, is imported; the class must derive from the seam's own base.
    """
    values = {"name": value} if isinstance(value, str) else dict(value)
    if "name" not in values:
        raise InputError(f"{what} must have a name", got=values, do=f"Add name: one of {', '.join(sorted(table))}.")
    name = str(values["name"])
    if ":" in name:
        return parse(_imported(name, table, what=what), values, what=what)
    if name not in table:
        raise unknown_name(what, name, table)
    return parse(table[name], values, what=f"{what} {name}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping, read with the safe loader only."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file must exist", got=str(path), do="Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} must be valid YAML", got=reason, do="Mend the file.") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold a mapping", got=type(values).__name__, do="Write key: value lines.")
    return values


def find_shipped(folder: str, name: str) -> Path:
    """The file that `name` means: a path, or the stem of a YAML file that ships with nasimb.

    Args:
        folder: "search_spaces" or "configs".
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    package = Path(__file__).parent
    # A wheel carries the folders inside the package; a checkout has them beside it.
    for place in (package / "shipped" / folder, package.parent / folder):
        if (place / f"{name}.yaml").is_file():
            return place / f"{name}.yaml"
    known = {
        file.stem for place in (package / "shipped" / folder, package.parent / folder) for file in place.glob("*.yaml")
    }
    raise unknown_name(f"a name in {folder} (or a path ending in .yaml)", name, known)


def _imported(name: str, table: Mapping[str, type[S]], *, what: str) -> type[S]:
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{what} {name} must be importable", got=str(error), do="Check the spelling.") from None
    # Every member of a table shares one abstract base: the class just below Spec.
    base = next(c for c in next(iter(table.values())).__mro__ if Spec in c.__bases__)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise InputError(f"{what} {name} must derive from {base.__name__}", got=repr(found), do="Change its base.")
    return cast("type[S]", found)


def _keys_at(spec_type: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Known keys of the (possibly nested) model that a validation location points into."""
    current: Any = spec_type
    for part in location:
        if isinstance(part, int) or not hasattr(current, "model_fields"):
            continue
        field = current.model_fields.get(part)
        if field is None:
            continue
        annotation = field.annotation
        inner = [a for a in (annotation, *getattr(annotation, "__args__", ())) if hasattr(a, "model_fields")]
        current = inner[0] if inner else current
    return list(current.model_fields)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
