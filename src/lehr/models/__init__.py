"""Reference models, one readable file each; a model may be taken into a project of its own as it stands."""
