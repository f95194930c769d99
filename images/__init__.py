"""The one table of image references, images.yaml."""
