"""The durable queue: a diskcache under a file lock."""
