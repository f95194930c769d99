"""The seam of a data-free method and what several methods share."""
