"""A cluster from parts on a bare Linux machine: see `cluster.py` for how they fit together."""
