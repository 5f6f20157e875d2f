"""The launcher for clusters that run SLURM."""
