"""The two kinds of `pgqrs.io/v1alpha1`: models that validate them, and the CRDs that are generated from these."""
