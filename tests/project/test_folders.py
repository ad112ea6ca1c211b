"""tests/README.md tells where each guarantee is tested: every folder and every file has its place in it."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support.processes import ROOT

TESTS = ROOT / "tests"
# Folder, guarantee, and the files of the first table; the second one has no third cell.
ROWS = [
    (cells[0].strip("` /"), cells[1], re.findall(r"`([^`]+)`", cells[2]) if len(cells) > 2 else [])
    for line in (TESTS / "README.md").read_text().splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
]
FILES = sorted(TESTS.rglob("test_*.py"))


def test_every_folder_of_the_tests_is_in_the_table_and_every_row_is_there() -> None:
    """Once each, with a guarantee."""
    folders = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith(("_", ".")))
    assert sorted(folder for folder, _guarantee, _files in ROWS) == folders
    assert all(guarantee for _folder, guarantee, _files in ROWS)


@pytest.mark.parametrize("folder", [folder for folder, _guarantee, _files in ROWS])
def test_a_row_of_the_table_names_the_files_of_its_folder(folder: str) -> None:
    """All of them, in their order, and no other."""
    (named,) = (files for name, _guarantee, files in ROWS if name == folder)
    assert named == [path.name for path in FILES if path.parent == TESTS / folder]


def test_every_file_of_tests_stands_in_a_folder_and_says_what_it_guarantees() -> None:
    """In its first line; a file beside the folders would belong to no guarantee."""
    assert [path.name for path in FILES if len(path.relative_to(TESTS).parts) != 2] == []
    assert [path.name for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))] == []
