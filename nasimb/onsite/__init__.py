"""A finished model at a new site: what its images would change, whether that should be, and what happens over time."""
