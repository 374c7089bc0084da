"""asyncbuild: a daemonless container image builder on one trio nursery."""

__version__ = "0.1.0"
