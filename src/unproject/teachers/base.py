"""What a teacher is: something that looks at images and says what it knows, with how far to trust it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from unproject.types import Labels


class Teacher(ABC):
    """Gives labels to a clip. Concrete teachers are frozen dataclasses of their settings and final."""

    @abstractmethod
    def label(self, images: Sequence[np.ndarray]) -> Labels:
        """Labels of one clip of uint8 RGB images [H, W, 3]; every field that is filled carries weights."""
