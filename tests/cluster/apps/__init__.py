"""Programs that run in pods of tests: sent there in a ConfigMap, so they use only what the example's image has."""
