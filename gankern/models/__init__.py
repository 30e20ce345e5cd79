"""The networks of the papers. Images are (N, channels, size, size) in [-1, 1], vectors (N, features)."""

from gankern.models.dcgan import DCGANCritic, DCGANGenerator
from gankern.models.mlp import MLPCritic, MLPGenerator
from gankern.models.sizes import ShapeError
from gankern.models.sngan import SNGANCritic, SNGANGenerator

__all__ = [
    "DCGANCritic",
    "DCGANGenerator",
    "MLPCritic",
    "MLPGenerator",
    "SNGANCritic",
    "SNGANGenerator",
    "ShapeError",
]
