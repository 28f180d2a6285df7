"""Networks: `Views` to `Prediction`."""

from unproject.models import checkpoints as checkpoints
from unproject.models.build import build as build
