"""Test-time adaptation of a finished network to shifted images: how far a shift is noise, and what follows.

Start with `BatchNormAdapter`, and give it a `class_profile` of training images.
"""

from nasimb.adapt.adapter import BatchNormAdapter
from nasimb.adapt.profile import ClassProfile, class_profile
from nasimb.adapt.safety import Reason, Safety
from nasimb.adapt.state import Entry

__all__ = ["BatchNormAdapter", "ClassProfile", "Entry", "Reason", "Safety", "class_profile"]
