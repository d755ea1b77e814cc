"""Reference models, one readable file each; what several of them need is in `lehr.layers`."""
