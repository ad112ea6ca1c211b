"""Where the files of a home are, and how they are read and written safely."""
