"""Real data sets in their published layouts, their seeded order, and augmentation."""
