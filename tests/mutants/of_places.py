"""Mistakes in where tasks of a run are placed."""

from mutant import Mutant

PLACES: tuple[Mutant, ...] = (
    Mutant(
        "several accelerators for a step that works on one",
        "src/distillery/placement/pools.py",
        "if read_accelerators(text) > 1:",
        "if read_accelerators(text) > 8:",
        "tests/unit/placement/test_pools.py",
    ),
    Mutant(
        "an accelerator's name without a number",
        "src/distillery/placement/pools.py",
        'else {"accelerator": "", "accelerators": "0"}',
        "else {}",
        "tests/unit/placement/test_pools.py",
    ),
    Mutant(
        "a request above its limit",
        "src/distillery/placement/pools.py",
        "if read(request) > read(limit):",
        "if read(limit) > read(request) * 1000:",
        "tests/unit/placement/test_pools.py",
    ),
    Mutant(
        "profiles that fix different things offered by one file",
        "src/distillery/placement/profiles.py",
        "return self.fixed == other.fixed",
        "return True",
        "tests/unit/placement/test_profiles.py",
    ),
    Mutant(
        "resources that kfp carries into no loop",
        "pipelines/resources.py",
        "    task.register_pipeline_channels(list(pool.values()))\n",
        "",
        "tests/pipelines/test_second_use.py",
    ),
    Mutant(
        "a queue that the plan's pod does not stand in",
        "pipelines/fixed.py",
        "        platform.update(pod_settings(fixed, size))\n",
        '        platform.update(pod_settings(fixed, size) if size != "first" else {})\n',
        "tests/pipelines/test_profiles.py",
    ),
)
