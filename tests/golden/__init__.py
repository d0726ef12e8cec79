"""Files that are made and committed, so that people read what changed: `python -m tests.golden` makes them anew."""
