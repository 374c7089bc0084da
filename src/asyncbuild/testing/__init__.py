"""Doubles that we ship: an in-process registry with faults, a far-link simulator."""
