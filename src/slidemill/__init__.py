"""slidemill: whole-slide images to tiles, features, slide encoders and honest evaluations."""

from importlib.metadata import version

__version__ = version("slidemill")
