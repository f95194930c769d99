"""Pure loss functions by kind: distillation, moments, priors, adversarial."""
