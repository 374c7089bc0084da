"""What the user wrote: a Dockerfile as typed instructions, word expansion, ignore patterns. Pure.

The way in is `parser.parse_dockerfile`. Grammar and meaning are those of BuildKit's Dockerfile frontend;
a module says so where it differs.
"""
