"""Where programs run: meshes, hosts, chips, and the files that all hosts share."""
