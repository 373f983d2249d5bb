"""One file a stage kind. `run(config, inputs, workdir, ...)` makes an Artifact of its folder."""
