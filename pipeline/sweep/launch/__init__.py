"""Launchers: where and how a study's runs are trained (`pipeline.sweep.study.Launcher`)."""
