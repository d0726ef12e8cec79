"""Opens the connection to the Kubernetes API for the injector, the certificate keeper and the release command."""

from __future__ import annotations

import os

from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.incluster_config import SERVICE_HOST_ENV_NAME, load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config

_USER_AGENT = "pgqrs-operator"


async def connect() -> ApiClient:
    """Give a client for the cluster that this pod is in, or else for the kubeconfig file's; close it by `async with`.

    Raises:
        kubernetes.aio.config.ConfigException: neither is there.
    """
    configuration = Configuration()
    if os.environ.get(SERVICE_HOST_ENV_NAME):
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # not annotated upstream
    else:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # nor is this
    client = ApiClient(configuration=configuration)
    client.user_agent = _USER_AGENT
    return client
