"""What is registered with Kubeflow's API: pipeline versions, schedules and runs, and how runs ended; imports neither kfp nor torch."""
