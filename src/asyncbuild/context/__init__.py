"""Where files come from: build contexts, their ignore rules, and where COPY puts things."""
