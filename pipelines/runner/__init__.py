"""A pipeline on this machine: kfp's local runner, watched, stopped and accounted for."""
