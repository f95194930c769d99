"""Mistakes in what optimises images."""

from mutant import Mutant

INVERSION = (
    Mutant(
        "the best images an alias of the pixels",
        "src/distillery/synthesis/inversion.py",
        "best = torch.where(better, pixels.detach(), best)",
        "best = pixels.detach()",
        "tests/unit/synthesis/test_inversion.py",
    ),
    Mutant(
        "the lowest loss carried from half the resolution to the full one",
        "src/distillery/synthesis/inversion.py",
        "lowest = torch.full((), torch.inf, device=device)",
        "lowest = lowest if part == config.passes[-1] and len(config.passes) > 1 else torch.full((), torch.inf, device=device)",
        "tests/unit/synthesis/test_inversion.py",
    ),
    Mutant(
        "images of one class a batch",
        "src/distillery/synthesis/common.py",
        "made = torch.cat([make(part) for part in asked[order].split(batch)])",
        "made = torch.cat([make(part) for part in asked.split(batch)])",
        "tests/unit/synthesis/test_common.py",
    ),
    Mutant(
        "the first layer's factor left out",
        "src/distillery/methods/deep_inversion.py",
        "self._matcher.distance(moments, first=config.first_layer_factor)",
        "self._matcher.distance(moments)",
        "tests/equivalence/test_deep_inversion.py",
    ),
    Mutant(
        "a warm-up that begins at a rate of 0",
        "src/distillery/methods/deep_inversion.py",
        "return self.rate * (step + 1) / self.warmup_steps",
        "return self.rate * step / self.warmup_steps",
        "tests/equivalence/test_deep_inversion.py",
    ),
    Mutant(
        "the norm of an image squared",
        "src/distillery/losses/priors.py",
        "return groups * norms.mean()",
        "return groups * norms.square().mean()",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "the published direction of the divergence taken for the true one",
        "src/distillery/losses/adversarial.py",
        "apart = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)",
        "apart = log_m.exp() * (2 * log_m - log_p - log_q)",
        "tests/equivalence/test_losses.py",
    ),
    Mutant(
        "a competition that draws student and teacher together",
        "src/distillery/methods/deep_inversion.py",
        "config.competition_weight * (1 - divergence.clamp(0, 1))",
        "config.competition_weight * divergence.clamp(0, 1)",
        "tests/equivalence/test_adaptive_deep_inversion.py",
    ),
    Mutant(
        "a gradient of moments that is rounded before it cancels",
        "src/distillery/losses/moments.py",
        "torch.addcmul(offset.view(shape), full_precision(features).unflatten(0, (ctx.groups, -1)), slope.view(shape))",
        "torch.addcmul(*(part.to(features.dtype) for part in "
        "(offset.view(shape), features.unflatten(0, (ctx.groups, -1)), slope.view(shape))))",
        "tests/equivalence/test_grouped_moments.py",
    ),
)
