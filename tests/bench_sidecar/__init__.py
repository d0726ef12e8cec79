"""What a sidecar costs: `make bench-sidecar`."""
