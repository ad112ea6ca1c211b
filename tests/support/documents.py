"""The documents as a program sees them: their blocks of code, their commands, and the paths that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import dedent

from tests.support.processes import ROOT

__all__ = ["DOCUMENTS", "Block", "blocks", "names", "text"]

# Every document at the top but the licence.
DOCUMENTS = sorted(path.name for path in ROOT.glob("*.md"))
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*) ?(?P<name>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: `name` is the file that it stands for, the second word of its fence."""

    document: str
    number: int
    language: str
    name: str
    text: str

    @property
    def id(self) -> str:
        """A name for a test's case."""
        return f"{self.document} {self.number} {self.name or self.language}"

    @property
    def lines(self) -> list[str]:
        """The commands of a shell block."""
        return [line for line in self.text.splitlines() if line.strip() and not line.startswith("#")]


def text(document: str) -> str:
    """Give a document of the top folder."""
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Give its blocks of code, numbered from 1."""
    found = enumerate(_FENCE.finditer(text(document)), 1)
    return [Block(document, number, match["language"], match["name"], dedent(match["text"])) for number, match in found]


def names(document: str) -> Iterator[str]:
    """Give what stands in code type outside the blocks, and where its links lead."""
    prose = _FENCE.sub("", text(document))
    yield from _SPAN.findall(prose)
    yield from (link for link in _LINK.findall(prose) if "://" not in link)
