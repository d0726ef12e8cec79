"""What ten thousand resources cost the operator, measured on the test cluster: `make bench-operator`."""
