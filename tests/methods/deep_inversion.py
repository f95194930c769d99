"""DeepInversion's smallest settings that leave nothing of it out: half the resolution first, every prior, a schedule, all views."""

TINY = {
    "batch": 8,
    "steps": 2,
    "coarse_steps": 1,
    "warmup_steps": 1,
    "schedule": "cosine",
    "jitter": 2,
    "flip": True,
    "clip": True,
    "total_variation_l1_weight": 0.1,
    "norm_weight": 0.1,
    "first_layer_factor": 3.0,
}

# batches that leave some images over where a shard is full
KILLED = {**TINY, "batch": 24}
