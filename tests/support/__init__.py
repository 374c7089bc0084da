"""What tests, scripts and benches share: a real registry, base images, and independent tools to look at results.

Nothing here imports asyncbuild: what is built is judged by code that shares nothing with the builder.
"""
