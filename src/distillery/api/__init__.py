"""What `import distillery` offers: a distillation and its parts, called in the process of whoever asks, without Kubeflow and a console."""
