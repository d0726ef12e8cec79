"""What the sidecar's injection changes in a pod: pure, so that the webhook and `pgqrs-sidecar render` give the same.

Needs the standard library alone and knows none of the other packages. It never does I/O.
"""
