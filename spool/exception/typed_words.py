"""What a person typed on the command line comes back in the texts of errors: it is cut out of them.

`KeyError: 'acme'`, `No such file: 'acme.csv'`: a program tells what it was given. Here are the words to look for.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator

__all__ = ["LEAST", "typed_words"]

# Shorter words are in too many texts, and say little.
LEAST = 4
# What an option's name looks like; with a digit or a sign in it, it may as well be a value.
_OPTION = re.compile(r"-{1,2}[A-Za-z]+(?:[-_][A-Za-z]+)*")
# Where a path, an address or a sentence falls into parts, each of which may come back alone.
_BETWEEN = re.compile(r"[\s/\\=,:;@?&#'\"<>()\[\]{}|]+")


def typed_words(arguments: Iterable[str], declared: Container[str] = ()) -> frozenset[str]:
    """Give the values among the arguments of a command line, whole and in parts, of LEAST characters and more.

    `declared` are names that the program itself gave: those of its commands. Names of options are no values.
    """
    found: set[str] = set()
    for value in _values(arguments):
        found |= {part.strip(".-_ ") for part in _BETWEEN.split(value)} | {value.strip()}
    return frozenset(word for word in found if len(word) >= LEAST and word not in declared)


def _values(arguments: Iterable[str]) -> Iterator[str]:
    for word in arguments:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield word
        elif equals and _OPTION.fullmatch(name):
            yield value
        elif not _OPTION.fullmatch(word):
            yield from (word, word.lstrip("-"), word[2:])  # the last for -pVALUE
        elif not word.startswith("--"):
            yield word[2:]
