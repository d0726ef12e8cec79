"""How large the sidecar's image is on its way from a registry."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from tests.support.cluster.local.images import ImageStore, Recipe, Snapshot
from tests.support.cluster.progress import Progress
from tests.support.installation import ROOT

if TYPE_CHECKING:
    from pathlib import Path

_BLOCK = 1 << 20


def compressed_megabytes() -> float:
    """Build the image where it is not built yet, and compress it as registries do (gzip); in MB.

    Its base is the stand-in for Docker Hub's `python:3.11-slim-bookworm` that is made here of the same packages.

    Raises:
        ClusterError: the build failed.
    """
    dockerfile = ROOT / "deploy" / "images" / "sidecar" / "Dockerfile"
    recipe = Recipe("docker.io/library/pgqrs-sidecar:0.1.0", dockerfile, ROOT)
    return _compressed(ImageStore(Progress()).archive(Snapshot.take(recipe))) / 1e6


def _compressed(archive: Path) -> int:
    compressor, size = zlib.compressobj(), 0
    with archive.open("rb") as file:
        while block := file.read(_BLOCK):
            size += len(compressor.compress(block))
    return size + len(compressor.flush())
