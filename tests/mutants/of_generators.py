"""Mistakes in what trains generators, and in the pool of what they made."""

from mutant import Mutant

GENERATORS = (
    Mutant(
        "images of an ensemble in the order of its shares",
        "src/distillery/synthesis/ensemble.py",
        "images[mine] = part",
        "images[: len(mine)] = part",
        "tests/unit/synthesis/test_ensemble.py",
    ),
    Mutant(
        "a shard of an ensemble too many",
        "src/distillery/workbench/sharding.py",
        "number = -(-total // most)",
        "number = total // most + 1",
        "tests/pipelines/test_ensemble.py",
    ),
    Mutant(
        "shards on the page without the worst of them",
        "src/distillery/tracking/history.py",
        "max(found) for name, found",
        "min(found) for name, found",
        "tests/pipelines/test_ensemble.py",
    ),
    Mutant(
        "a small part of a pool drawn with replacement",
        "src/distillery/data/pool.py",
        "ordered[1:] != ordered[:-1]",
        "True",
        "tests/unit/data/test_pool.py",
    ),
    Mutant(
        "a conditional generator sampled in train mode",
        "src/distillery/synthesis/learner.py",
        "        self._generator.eval()\n",
        "        self._generator.train()\n",
        "tests/equivalence/test_ls_gdfd.py",
    ),
    Mutant(
        "a teacher that sees the images before the jitter",
        "src/distillery/methods/ls_gdfd.py",
        "self._matcher.observe(self._jittered(made), ",
        "self._matcher.observe(images, ",
        "tests/equivalence/test_ls_gdfd.py",
    ),
    Mutant(
        "generators of a stack that owe the mean of their losses",
        "src/distillery/methods/ls_gdfd.py",
        "config.label_weight * groups * functional",
        "config.label_weight * functional",
        "tests/equivalence/test_stacked.py",
    ),
    Mutant(
        "one offset of jitter for the images of all generators",
        "src/distillery/methods/ls_gdfd.py",
        "zip(made.images.chunk(made.groups), made.draws, strict=True)",
        "zip([made.images], made.draws, strict=False)",
        "tests/equivalence/test_stacked.py",
    ),
    Mutant(
        "the kernel of an upsampling that is not mirrored",
        "src/distillery/models/generators/stacked.py",
        ".flip(2, 3)\n",
        "\n",
        "tests/equivalence/test_stacked.py",
    ),
    Mutant(
        "labels of a generator counted from the first class of all",
        "src/distillery/models/generators/stacked.py",
        " - self.first_class[:, None]\n",
        " - self.first_class[0]\n",
        "tests/equivalence/test_stacked.py",
    ),
    Mutant(
        "the generators of a share drawn from one stream",
        "src/distillery/synthesis/stacked.py",
        'stream(seed, name, "learning", index)',
        'stream(seed, name, "learning")',
        "tests/equivalence/test_stacked.py",
    ),
    Mutant(
        "classes given to the generators by rounding up",
        "src/distillery/synthesis/share.py",
        "range(g * num_classes // self.total, (g + 1)",
        "range(-(-g * num_classes // self.total), (g + 1)",
        "tests/unit/synthesis/test_share.py",
    ),
    Mutant(
        "terms of several generators judged by their sum",
        "src/distillery/synthesis/recorder.py",
        "[values / groups for values, groups in",
        "[values for values, groups in",
        "tests/unit/synthesis/test_recorder.py",
    ),
    Mutant(
        "a budget that forgets what those who learn take",
        "src/distillery/synthesis/stack_memory.py",
        " + min(generators, self.learning) * (self.gradients + self.activations)",
        " + self.gradients + self.activations",
        "tests/unit/synthesis/test_stack_memory.py",
    ),
)
