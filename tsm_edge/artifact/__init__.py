"""A compiled model on disk: its folder, manifest, golden frames and reference.

The public names are here; everything else is imported from its module.
"""

from tsm_edge.artifact.folder import Artifact, latest_artifact, load_artifact
from tsm_edge.artifact.manifest import Manifest

__all__ = ["Artifact", "Manifest", "latest_artifact", "load_artifact"]
