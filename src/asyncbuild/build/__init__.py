"""Making it happen: the session, its futures, the executor, supply, publishing, the workers."""
