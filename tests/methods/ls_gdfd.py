"""LS-GDFD's smallest settings that leave nothing of it out."""

TINY = {
    "generator": {"name": "conditional", "latent": 6, "width": 4, "condition": "one_hot"},
    "batch": 8,
    "steps_per_round": 2,
}
