"""Kubeflow components: one folder a step, each a thin shim over `distillery.steps`."""
