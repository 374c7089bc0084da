"""Images that are there already: copied between registries, pushed from files, merged, shown."""
