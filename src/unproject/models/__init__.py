"""Networks: `Views` to `Prediction`."""

from unproject.models.build import build as build
