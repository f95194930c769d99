"""FastDFKD's smallest settings that leave nothing of it out: two steps, a warm-up, a reset, augmentation."""

TINY = {
    "generator": {"name": "generator", "latent": 6, "width": 4},
    "batch": 8,
    "steps": 2,
    "warmup": 1,
    "reset_after": 1,
    "augment": {"crop_padding": 1, "flip": True},
}

# a kill may come into the warm-up, and the reset after a resume
KILLED = {**TINY, "batch": 24, "warmup": 2, "reset_after": 2}
