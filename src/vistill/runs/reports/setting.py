"""What every page ends with: where the work was done, and how to do it again."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vistill.analysis.report import Section


def environment_section(sessions: Sequence[Mapping[str, Any]]) -> Section:
    """Machine and versions of the last session, and when all of them began."""
    if not sessions:
        return Section("Environment", "Nothing is kept of it.")
    last = sessions[-1]
    packages = last.get("packages") or {}
    facts = {
        "began": ", ".join(str(one.get("started", "?")) for one in sessions),
        "machine": str(last.get("platform", "?")),
        "GPU": str(last.get("cuda") or "none"),
        "Python": str(last.get("python", "?")),
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items() if version),
    }
    return Section("Environment", facts=facts)


def command_section(sessions: Sequence[Mapping[str, Any]], further: Mapping[str, str]) -> Section:
    """The last command as it was given, and others with what they do."""
    told = {}
    if sessions and sessions[-1].get("command"):
        told["As it was given"] = command_line(sessions[-1]["command"])
    told |= further
    return Section("Again", code="\n".join(f"# {what}\n{line}" for what, line in told.items()))


def command_line(words: Sequence[str]) -> str:
    """The words of a process as a shell takes them."""
    program, *rest = (str(word) for word in words)
    name = Path(program).name
    if name in ("vistill", "__main__.py"):
        return shlex.join(["vistill", *rest])
    return shlex.join(["python", program, *rest] if name.endswith(".py") else [program, *rest])


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
