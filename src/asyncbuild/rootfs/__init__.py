"""A stage's file system: what it holds, its mounts, and the RUN sandbox."""
