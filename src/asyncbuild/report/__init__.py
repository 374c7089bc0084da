"""What people see of a build: progress in four forms, the metadata file, the trace.

The build emits events (`events`); reporters are told each of them and never make it wait for more than
a write to their stream.
"""
