"""The bench of `make bench`: ours, bare asyncpg and the peers on one private PostgreSQL server, in one run.

`peers` holds the programs that are measured, each run by the interpreter of an environment of its own. Everything else
here starts them, puts their numbers side by side and compares them with the aims.
"""
