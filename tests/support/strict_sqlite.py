"""A SQLite that refuses double-quoted strings, as some systems build it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.processes import environment, run_python

__all__ = ["strict_environment"]

_SHIM = """
#include <dlfcn.h>
#include <stddef.h>
int sqlite3_open_v2(const char *name, void **database, int flags, const char *vfs) {
    void *library = dlopen(LIBRARY, RTLD_NOW);
    int (*open)(const char *, void **, int, const char *) = dlsym(library, "sqlite3_open_v2");
    int (*configure)(void *, int, ...) = dlsym(library, "sqlite3_db_config");
    int code = open(name, database, flags, vfs);
    if (code == 0) {
        configure(*database, 1013, 0, NULL); /* SQLITE_DBCONFIG_DQS_DML */
        configure(*database, 1014, 0, NULL); /* SQLITE_DBCONFIG_DQS_DDL */
    }
    return code;
}
"""


def strict_environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which SQLite refuses double-quoted strings; skips where none can be made."""
    if shutil.which("gcc") is None or not Path("/proc/self/maps").exists():
        pytest.skip("needs gcc, and Linux")
    maps = run_python("import sqlite3; print(open('/proc/self/maps').read())").stdout
    library = re.search(r"/\S*/libsqlite3\.so\S*", maps)
    if library is None:
        pytest.skip("this Python has SQLite built in: it can't be exchanged")
    (tmp_path / "shim.c").write_text(_SHIM)
    options = ["-shared", "-fPIC", f'-DLIBRARY="{library[0]}"', "-o", str(tmp_path / "shim.so")]
    subprocess.run(["gcc", *options, tmp_path / "shim.c", "-ldl"], check=True)
    env = environment(LD_PRELOAD=str(tmp_path / "shim.so"))
    probe = run_python("import sqlite3; sqlite3.connect(':memory:').execute('SELECT \"text\"')", env=env)
    assert "no such column" in probe.stderr
    return env
