"""Where results go besides a registry: OCI layouts and docker archives, and what ``--output`` asks for.

Blocking code; a build calls it in a thread. Nothing here talks to a registry.
"""
