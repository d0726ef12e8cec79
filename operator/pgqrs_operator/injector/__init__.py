"""The admission webhook that puts the sidecar into labelled pods.

It keeps no state: any number of replicas answer side by side. It only reads from the Kubernetes API, and it never
touches the database.
"""
