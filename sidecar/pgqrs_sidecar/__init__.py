"""The agent beside the app's containers in a pod.

It registers the pod as a worker, sends its heartbeats, sees its processes die, and drains it when the pod ends. Every
statement that it runs is the library's; it never talks to the Kubernetes API.
"""
