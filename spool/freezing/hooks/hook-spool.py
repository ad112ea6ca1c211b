"""PyInstaller reads this for a program that imports `spool`: it brings its own flusher along."""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

# Loaded late, by both sides; the tests of hosts stay at home.
hiddenimports = [
    *collect_submodules("spool", filter=lambda name: not name.startswith(("spool.testing", "spool.freezing"))),
    *collect_submodules("flusher"),
]
datas = [*collect_data_files("spool"), *collect_data_files("flusher"), *collect_data_files("certifi")]
