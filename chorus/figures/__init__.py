"""Pictures of distributions, camera views, masks, store statistics, scores and ablations."""
