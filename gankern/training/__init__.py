"""Training from recipes: what `gankern train` runs.

A recipe (`recipes/<name>.py`) says how its networks are built and what they minimise; `trainer` runs it on a source of
`data`; `report` looks at the result.
"""

from gankern.training.checkpoint import Checkpoint, CheckpointError
from gankern.training.recipe import Recipe, RecipeError, Step
from gankern.training.trainer import NonFiniteError, Trainer

__all__ = ["Checkpoint", "CheckpointError", "NonFiniteError", "Recipe", "RecipeError", "Step", "Trainer"]
