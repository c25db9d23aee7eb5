"""pierhead: private image registries for K3s and every other containerd, Docker or podman host."""

__version__ = "0.1.0.dev0"
