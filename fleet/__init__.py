"""tierfleet: a team of language models as distributed workers, at the lowest cost per accepted outcome."""
