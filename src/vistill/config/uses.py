"""Which settings have a use only beside others, so that none is given in vain without a word."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from vistill.config.section import Section
from vistill.config.suggest import shown


@dataclass(frozen=True)
class Such:
    """A kind of value that another setting must have; `text` names it."""

    text: str
    test: Callable[[Any], bool]


GIVEN = Such("", lambda value: value not in (None, False, 0, (), ""))
"""Any value but the one that switches off."""


@dataclass(frozen=True)
class Needs:
    """What a setting, or a whole section, must have beside it; see `needs`."""

    wanted: Mapping[str, Any]

    def why_idle(self, root: Section, place: Section, prefix: str) -> str | None:
        """What is in the way, for a setting of `place`, which is at `prefix`; None: nothing."""
        for name, wanted in self.wanted.items():
            value: Any = root if "." in name else place
            for part in name.split("."):
                value = getattr(value, part)
            key = name if "." in name else f"{prefix}{name}"
            nothing = value is None or value == ()
            said = f"without {key}" if nothing else f"with {key}={shown(value)}"
            if isinstance(wanted, Such):
                if not wanted.test(value):
                    return f"{said}, which is no {wanted.text}" if wanted.text else said
            elif wanted is None:
                if not nothing:
                    return f"beside {key}={shown(value)}"
            elif value not in (many := wanted if isinstance(wanted, tuple) else (wanted,)):
                return f"{said}; it needs {key}={' or '.join(map(shown, many))}"
        return None


def needs(far: Mapping[str, Any] | None = None, /, **near: Any) -> dict[str, Any]:
    """For `Field(json_schema_extra=...)`: the setting is idle unless others have some value.

    Args:
        far: settings of other sections, with dots from the top.
        near: settings of the same section. What is wanted is a value, a tuple of values, None where
            it must not be given, or a kind of value.
    """
    return {"needs": Needs({**(far or {}), **near})}


def needs_of(field: FieldInfo) -> Needs:
    """What a field was given by `needs`."""
    extra = field.json_schema_extra
    found: Any = extra.get("needs") if isinstance(extra, dict) else None
    return found or Needs({})


def why_idle(root: Section, path: tuple[str, ...]) -> str | None:
    """Why the setting at `path` changes nothing in the configuration `root`; None: it does."""
    reasons = dict(root.idle(root))
    for _, section in root:
        if isinstance(section, Section):
            reasons |= section.idle(root)
    for n in range(1, len(path) + 1):
        if ".".join(path[:n]) in reasons:
            return reasons[".".join(path[:n])]
    place: Any = root
    for n, part in enumerate(path):
        if isinstance(place, Section):
            prefix = "".join(f"{above}." for above in path[:n])
            why = needs_of(type(place).model_fields[part]).why_idle(root, place, prefix)
            if why is not None:
                return why
            place = getattr(place, part)
        else:
            place = place.get(part) if isinstance(place, dict) else None
    return None


def idle_settings(root: Section) -> Iterator[str]:
    """Settings that differ from their default and change nothing, each with the reason."""
    for path, value in _differing(root, ()):
        why = why_idle(root, path)
        if why is not None:
            yield f"{'.'.join(path)}={shown(value)} has no use {why}"


def _differing(place: Section, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, field in type(place).model_fields.items():
        value = getattr(place, name)
        if isinstance(value, Section):
            yield from _differing(value, (*path, name))
        elif isinstance(value, dict) and all(isinstance(one, Section) for one in value.values()):
            for key, one in value.items():
                yield from _differing(one, (*path, name, key))
        elif value != field.get_default(call_default_factory=True):
            yield (*path, name), value
