"""The README's table of values, made from values.yaml: each leaf, or map that is given as a whole, with its comment.

    python -m lib.readme --write
"""

import json
import sys

import yaml

from .chart import CHART

BEGIN, END = "<!-- values: written by lib/readme.py, not by hand -->\n", "<!-- end of values -->\n"
README, VALUES = CHART / "README.md", CHART / "values.yaml"


def entries() -> list[tuple[str, object, str]]:
    """(path, default, what it means) of every value that has a `# --` comment; a fault for a leaf without one."""
    documented: dict[tuple, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in VALUES.read_text().splitlines():
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text.startswith("# -- "):
            comment = [text[5:]]
        elif text.startswith("# ") and comment:
            comment.append(text[2:])
        elif text and not text.startswith(("#", "-")):
            name = text.split(":", 1)[0]
            path = [step for step in path if step[0] < indent] + [(indent, name)]
            if comment:
                documented[tuple(step for _, step in path)] = " ".join(comment)
            comment = []
    values = yaml.safe_load(VALUES.read_text())
    found, missing = [], []

    def walk(value, here: tuple):
        if here in documented:
            found.append((".".join(here), value, documented[here]))
        elif isinstance(value, dict) and value:
            for name, below in value.items():
                walk(below, (*here, name))
        else:
            missing.append(".".join(here))

    walk(values, ())
    if missing:
        raise ValueError(f"values without a comment: {missing}")
    return found


def table() -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    for path, default, meaning in entries():
        lines.append(f"| `{path}` | `{json.dumps(default)}` | {meaning} |".replace(" | `\"\"` | ", " | | "))
    return "\n" + "\n".join(lines) + "\n\n"


def written() -> str:
    """The README as it should be."""
    before, rest = README.read_text().split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(written())
    else:
        print(table())
