"""Images: sources, splits, reading, augmentation, loaders."""
